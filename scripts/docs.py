"""The README and the documentation site, built offline from the notebooks.

    python scripts/docs.py readme [--check]   README.md from nbs/index.ipynb; with --check only compare
    python scripts/docs.py build [FOLDER]     the site in FOLDER (default _docs); fails on any broken link

nbdev's own commands would download Quarto. Here nbdev processes the notebooks and smalldocs, which is pure Python, renders them.
"""
import ast, html.parser, json, os, re, shutil, subprocess, sys
from pathlib import Path
from urllib.parse import unquote
import nbclient, nbformat
from execnb.nbio import dict2nb, mk_cell, read_nb, write_nb
from nbdev.config import get_config
from nbdev.processors import FilterDefaults
from crane.reproduce import notebooks

root = Path(__file__).resolve().parent.parent
nbs, figures, proc = root/'nbs', root/'figures', root/'_proc'
REPO_LINKS = {r'\]\((\w+\.ipynb)': r'](nbs/\1', r'\]\(\.\./': r']('}  # seen from the repository's root
SITE_LINKS = {r'\]\(\d\d_(\w+)\.ipynb': r'](\1.ipynb', r'\]\(\.\./': r']('}  # seen from the site, where pages have no number


def relink(text, links):
    for a, b in links.items(): text = re.sub(a, b, text)
    return text


def executed_index():
    "The index with fresh outputs: it only reads figures/."
    nb = nbformat.read(nbs/'index.ipynb', as_version=4)
    nbclient.NotebookClient(nb, kernel_name='python3', resources={'metadata': {'path': str(nbs)}}, extra_arguments=['--log-level=ERROR']).execute()
    return nb


def outputs(cell):
    "Markdown of a code cell's outputs."
    for o in cell.outputs:
        data = o.get('data', {'text/plain': o.get('text', '')})
        yield relink(data['text/markdown'], REPO_LINKS) if 'text/markdown' in data else f"```\n{data['text/plain'].rstrip()}\n```"


def readme():
    "README.md as text: the index's Markdown, and what its cells show."
    parts = ['<!-- made from nbs/index.ipynb by `make readme`: edit there -->']
    for c in executed_index().cells:
        if c.source.startswith('#| hide'): continue
        if c.cell_type == 'markdown' or not c.source.startswith('#| echo: false'):
            parts.append(relink(c.source, REPO_LINKS) if c.cell_type == 'markdown' else f'```python\n{c.source}\n```')
        if c.cell_type == 'code': parts += outputs(c)
    return '\n\n'.join(p.strip() for p in parts if p.strip()) + '\n'


def with_outputs(nb, done):
    "Put the outputs of an executed copy under the cells that are still the same."
    have = {(c.get('id'), c.source): c.outputs for c in done.cells if c.cell_type == 'code'}
    for c in nb.cells:
        if c.cell_type == 'code': c.outputs = have.get((c.id, c.source), [])


def pieces(code):
    "An exported cell cut so that each public function or class stands alone: nbdev documents those of one cell in reverse."
    public = [n for n in ast.parse(code).body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith('_')]
    starts = [min([n.lineno, *(d.lineno for d in n.decorator_list)]) for n in public[1:]]
    lines = code.split('\n')
    return ['\n'.join(lines[a-1:b-1]).strip('\n') for a, b in zip([1, *starts], [*starts, len(lines)+1])]


def prepare(nb):
    "Keep what nbdev would drop: prose in the title's cell, and the source of exported cells (shown folded)."
    first, *others = nb.cells
    title = re.match(r'# .+\n(\n*> .+\n)?', first.source + '\n')[0]
    cells = [mk_cell(title.strip(), 'markdown'), mk_cell(first.source[len(title):].strip(), 'markdown')]
    for c in others:
        code = re.sub(r'^#\| export\n', '', c.source)
        imports_only = all(re.match(r'(from|import) |$', l) for l in code.split('\n'))
        if code != c.source and not imports_only: cells += [mk_cell(f'#| exports\n{p}') for p in pieces(code)]; continue
        if c.cell_type == 'code' and not imports_only and re.search(r'^\s*(from|import) ', code, re.M):
            c.source = f'#| eval: false\n{code}'  # nbdev would run an example that imports without what it builds on; its outputs are here already
        cells.append(c)
    nb.cells = cells


def tidy(cell):
    "What nbdev leaves for Quarto, said as smalldocs wants it."
    cfg = get_config()
    here = f'{cfg.doc_host}{cfg.doc_baseurl}/'  # nbdev links our own names by the site's address; within the site they are relative
    if cell.cell_type == 'markdown': cell.source = relink(cell.source, SITE_LINKS).replace(here, '')
    if cell.cell_type == 'raw': cell.source = re.sub(r'^output-file:.*\n', '', cell.source, flags=re.M)
    cell.source = re.sub(r'^#\| (exports|eval: false)\n', '', cell.source, flags=re.M).replace('#| code-fold: show\n#| code-summary: "Exported source"', '#| code-fold: true\n#| code-summary: "source"')
    for o in cell.get('outputs', []):
        text = ''.join(o.get('data', {}).get('text/markdown', ''))
        text = re.sub(r'\[source\]\(.*?\)\{.*?\}\n*', '', text).replace('```python\n\n', '```python\n')  # no link to a repository that may not be there
        text = re.sub(r'```.*?```', lambda m: re.sub(r'\[(`.*?`)\]\(.*?\)', r'\1', m[0]), text, flags=re.S)  # no links in code
        if text: o['data']['text/markdown'] = relink(text, SITE_LINKS).replace(here, '').replace('args:VAR_POSITIONAL, kwargs:VAR_KEYWORD', '*args, **kwargs')


def process(path):
    "One notebook, processed by nbdev, under its module's name."
    nb, copy = read_nb(path), figures/'notebooks'/path.name
    if path.stem == 'index': with_outputs(nb, dict2nb(json.loads(nbformat.writes(executed_index()))))
    elif copy.exists(): with_outputs(nb, read_nb(copy))
    prepare(nb)
    nb = dict2nb(nb)
    FilterDefaults()(nb)
    for c in nb.cells: tidy(c)
    write_nb(nb, proc/(re.sub(r'^\d\d_', '', path.stem) + '.ipynb'))


class Links(html.parser.HTMLParser):
    "The ids and the links of a page."
    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), set()
        self.feed(text)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a.get('id'), a.get('name')} - {None}
        self.links |= {a.get('href'), a.get('src')} - {None, ''}


def broken_links(site):
    "Every internal link of a site whose page, file or anchor does not exist."
    pages = {p: Links(p.read_text()) for p in sorted(site.rglob('*.html'))}
    for p, page in pages.items():
        for link in sorted(page.links):
            if re.match(r'[a-z][a-z0-9+.-]*:|//', link): continue
            path, _, anchor = unquote(link).partition('#')
            target = (p.parent/path.split('?')[0]).resolve() if path else p
            if target.is_dir(): target /= 'index.html'
            if not target.exists(): yield f'{p.relative_to(site)}: {link} (no such file)'
            elif anchor and target in pages and anchor not in pages[target].ids: yield f'{p.relative_to(site)}: {link} (no such anchor)'


def build(to):
    "The whole site."
    shutil.rmtree(proc, ignore_errors=True)
    proc.mkdir()
    os.environ['IN_TEST'] = '1'  # nbdev's switch: the notebooks' own exports stay off
    os.chdir(nbs)
    paths = [*notebooks(root).values()]
    for k, p in enumerate(paths, 1):
        print(f'docs: [{k}/{len(paths)}] {p.stem}', flush=True)
        process(p)
    for f in '_quarto.yml', 'sidebar.yml', 'styles.css': shutil.copy(nbs/f, proc/f)
    if figures.exists(): shutil.copytree(figures, proc/'figures', ignore=shutil.ignore_patterns('notebooks'))
    r = subprocess.run([sys.executable, '-m', 'smalldocs.cli', 'render', '--strict', '--quiet', str(proc)])
    if r.returncode: sys.exit('docs: smalldocs found something wrong (above); mend the notebook or nbs/_quarto.yml.')
    broken = list(broken_links(proc/'_docs'))
    if broken: sys.exit('\n'.join(['docs: broken links:', *broken]))
    shutil.rmtree(to, ignore_errors=True)
    shutil.move(proc/'_docs', to)
    print(f'docs: {len(list(to.rglob("*.html")))} pages in {os.path.relpath(to, root)}, no broken link')


if __name__ == '__main__':
    args = sys.argv[1:]
    if args[:1] == ['build']: build(Path(args[1]).resolve() if args[1:] else root/'_docs')
    elif args[:1] == ['readme']:
        text, path = readme(), root/'README.md'
        if args[1:] == ['--check']: sys.exit(None if path.exists() and path.read_text() == text else "README.md is not what nbs/index.ipynb gives: run 'make readme'.")
        new = path.with_name('.README.new'); new.write_text(text); new.rename(path)
    else: sys.exit(__doc__)
