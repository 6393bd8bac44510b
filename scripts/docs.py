"""The README and the documentation site, built offline from the notebooks.

    python scripts/docs.py readme [--check]   README.md from nbs/index.ipynb, and the cards beside the data; or compare
    python scripts/docs.py build [FOLDER]     the site in FOLDER (default _docs); fails on any broken link

nbdev's own commands would download Quarto. Here nbdev processes the notebooks and smalldocs, which is pure Python,
renders them. Other pages are made from what exists: the API and the sources from crane/, the ledger and the tables
from figures/, the cards, the times and the faults from what ships.
"""

import ast
import html
import html.parser
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import nbclient
import nbformat
import smalldocs
import yaml
from execnb.nbio import dict2nb, mk_cell, read_nb, write_nb
from nbdev.config import get_config
from nbdev.processors import FilterDefaults

from crane.core import write_atomic
from crane.plan import is_stage, module_of, notebooks

root = Path(__file__).resolve().parent.parent
nbs, figures, proc, data = root / "nbs", root / "figures", root / "_proc", root / "crane" / "data"
MODULES = {module_of(name): path for name, path in notebooks(root).items() if is_stage(name)}
REPO_LINKS = {r"\]\((\w+\.(?:ipynb|md))": r"](nbs/\1", r"\]\(\.\./": r"]("}  # seen from the repository's root
SITE_LINKS = {  # seen from the site, where pages have no number
    r"\]\(\.\./figures/ledger\.md": "](claims.md",
    r"\]\(\.\./crane/data/README\.md": "](cards.md",
    r"\]\((\w+)\.ipynb": lambda m: f"]({module_of(m[1])}.ipynb",
    r"\]\(\.\./": r"](",
}
CHANGED = (
    "*Code of this notebook has changed since: results stand under the cells that are as they were, "
    "but may rest on others that are not.*"
)
NOT_YET = "*No run has been promoted to `figures/` yet: `make reproduce` does it.*\n"


def relink(text, links):
    for a, b in links.items():
        text = re.sub(a, b, text)
    return text


def executed_index():
    "The index with fresh outputs: it only reads figures/."
    nb = nbformat.read(nbs / "index.ipynb", as_version=4)
    nbclient.NotebookClient(
        nb, kernel_name="python3", resources={"metadata": {"path": str(nbs)}}, extra_arguments=["--log-level=ERROR"]
    ).execute()
    return nb


def outputs(cell):
    "Markdown of a code cell's outputs."
    for o in cell.outputs:
        data = o.get("data", {"text/plain": o.get("text", "")})
        yield (
            relink(data["text/markdown"], REPO_LINKS)
            if "text/markdown" in data
            else f"```\n{data['text/plain'].rstrip()}\n```"
        )


def readme():
    "README.md as text: the index's Markdown, and what its cells show."
    parts = ["<!-- made from nbs/index.ipynb by `make readme`: edit there -->"]
    for c in executed_index().cells:
        if c.source.startswith("#| hide"):
            continue
        if c.cell_type == "markdown" or not c.source.startswith("#| echo: false"):
            parts.append(relink(c.source, REPO_LINKS) if c.cell_type == "markdown" else f"```python\n{c.source}\n```")
        if c.cell_type == "code":
            parts += outputs(c)
    return "\n\n".join(p.strip() for p in parts if p.strip()) + "\n"


# ---- names: what the API page lists, and what a name in prose leads to


class Name(NamedTuple):
    name: str
    line: int
    says: str
    anchor: str  # no anchor: the page does not document it


def patches_a_class(node):
    "Whether a decorator makes a function a method of a class."
    return any("patch" in ast.unparse(d) for d in node.decorator_list)


def named(node, lines):
    "What a statement of a module names, with the class that it patches before it."
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        name = f"{node.args.args[0].annotation.id}.{node.name}" if patches_a_class(node) else node.name
        yield Name(name, node.lineno, (ast.get_docstring(node) or "").split("\n")[0], "#" + name.lower())
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        comment = re.search(r" # (.+)", lines[node.end_lineno - 1])
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            for t in ast.walk(target):
                if isinstance(t, ast.Name) and isinstance(t.ctx, ast.Store):
                    yield Name(t.id, node.lineno, comment[1] if comment else "", "")


def statements(module):
    "The statements of a module behind its docstring."
    return ast.parse((root / "crane" / f"{module}.py").read_text()).body[1:]


def cells_of_lines(lines):
    "The id of the notebook cell that each line of a module comes from; lines count from one."
    ids = [""]
    for line in lines:
        ids.append(line.rpartition("#")[2] if line.startswith("# %% ") else ids[-1])
    return ids


@cache
def api():
    "Module -> its public names, in the order of its notebook; methods stand with their class."
    out = {}
    for m, path in MODULES.items():
        inner = {c.id for c in read_nb(path).cells if c.source.startswith("#| exporti\n")}
        lines = (root / "crane" / f"{m}.py").read_text().split("\n")
        cell_of = cells_of_lines(lines)
        out[m] = []
        for node in statements(m):
            if cell_of[node.lineno] not in inner:
                out[m] += [n for n in named(node, lines) if not re.search(r"(^|\.)_", n.name)]
    return out


def doubtful():
    "Words that are also a field, a parameter, a value or another function: nobody can tell which one prose means."
    nodes, commands, fields, functions = [], set(), set(), Counter()
    for m in MODULES:
        for statement in statements(m)[1:]:
            nodes += ast.walk(statement)
            if isinstance(statement, ast.FunctionDef) and not patches_a_class(statement):
                functions[statement.name] += 1
    for n in nodes:
        for decorator in getattr(n, "decorator_list", []):
            commands.update(map(id, ast.walk(decorator)))
        if isinstance(n, ast.ClassDef):
            fields |= {b.target.id for b in n.body if isinstance(b, ast.AnnAssign)}
    values = {n.value for n in nodes if isinstance(n, ast.Constant) and id(n) not in commands}
    shared = {name for name, times in functions.items() if times > 1}
    return values | {n.arg for n in nodes if isinstance(n, ast.arg)} | fields | shared | {*MODULES}


@cache
def targets():
    "Name -> page and anchor; names that could mean two things are left out."
    found, unsure, pages = defaultdict(list), doubtful(), {}
    for m, names in api().items():
        for n in names:
            if n.anchor:
                found[n.name].append(f"{m}.html{n.anchor}")
    for m, p in MODULES.items():
        pages |= {f"crane.{m}": f"{m}.html", p.stem: f"{m}.html"}
    return {n: at[0] for n, at in found.items() if len(at) == 1 and n not in unsure} | pages


def outside_code(text, change):
    "Change Markdown everywhere but in code."
    return "".join(
        part if k % 2 else change(part) for k, part in enumerate(re.split(r"(```.*?```|`[^`\n]*`)", text, flags=re.S))
    )


# what of a formula is not itself; any other macro is refused, as no page may fetch a renderer from elsewhere
TEX = dict(delta="δ", alpha="α", sum="∑", leftarrow=" ← ", top="⊤", tilde="~") | {"|": "‖"}


def formula(tex):
    "A formula of a notebook as HTML."
    if unknown := sorted(set(re.findall(r"\\([a-zA-Z]+|.)", tex)) - {*TEX}):
        sys.exit(f"docs: the formula {tex!r} uses {unknown}: add them to TEX in scripts/docs.py.")
    text = re.sub(r"\\([a-zA-Z]+|.) ?", lambda m: TEX[m[1]], html.escape(tex, quote=False))
    text = text.replace("'", "′").replace("-", "−")
    text = re.sub(r"~(.)", "\\1\u0303", text)
    raised = re.compile(r"([\^_])(?:\{([^{}]*)\}|([^{}\s^_]))")
    while raised.search(text):  # from the innermost outwards
        text = raised.sub(_raised, text)
    return f'<span class="formula">{text}</span>'


def _raised(m):
    tag = "sup" if m[1] == "^" else "sub"
    return f"<{tag}>{m[2] or m[3]}</{tag}>"


def formulas(text):
    return outside_code(text, lambda t: re.sub(r"(?<![\w$])\$(\S|\S[^$\n]*\S)\$(?![\d$])", lambda m: formula(m[1]), t))


# ---- pages of notebooks


def code_cells(nb):
    return [c for c in nb.cells if c.cell_type == "code" and "injected-parameters" not in c.metadata.get("tags", [])]


def parsed(source):
    "The statements of a cell; a line that only IPython understands is a text."
    python = re.sub(r"^(\s*)([%!].*)$", lambda m: m[1] + repr(m[2]), source, flags=re.M)
    return ast.parse(python).body


@cache
def meaning(source):
    "What a cell does: its syntax tree, which quotes, comments and line breaks do not change, without its imports."
    return [ast.dump(n) for n in parsed(source) if not isinstance(n, (ast.Import, ast.ImportFrom))]


class Shown(NamedTuple):
    notebook: str  # name of the executed copy
    meaning: list[str]
    outputs: list


def shown_cells(copies):
    "Cell id -> what executed copies show: a cell may have moved to another notebook since."
    found = {}
    for name, nb in copies.items():
        found |= {c.get("id"): Shown(name, meaning(c.source), c.outputs) for c in code_cells(nb)}
    return found


@cache
def promoted():
    "The executed notebooks of the promoted run, by name."
    return {p.stem: read_nb(p) for p in sorted((figures / "notebooks").glob("*.ipynb"))}


def with_outputs(nb, have):
    "Put what was executed under the cells that are still the same; whether all are, and where it comes from."
    same, origin = True, Counter()
    for c in code_cells(nb):
        was = have.get(c.get("id"))
        if was and was.meaning == meaning(c.source):
            c.outputs = was.outputs
            origin[was.notebook] += 1
        else:
            c.outputs = []
            same = same and not meaning(c.source)
    return same, [name for name, _ in origin.most_common()]


def pieces(code):
    "An exported cell cut so that each public name stands alone: nbdev documents those of one cell in reverse."
    definitions = [n for n in ast.parse(code).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    public = [n for n in definitions if not n.name.startswith("_")]
    starts = [min([n.lineno, *(d.lineno for d in n.decorator_list)]) for n in public[1:]]
    lines = code.split("\n")
    bounds = zip([1, *starts], [*starts, len(lines) + 1])
    return ["\n".join(lines[a - 1 : b - 1]).strip("\n") for a, b in bounds]


FOLDED = '#| code-fold: true\n#| code-summary: "code"\n'


# what public code builds on may stand in cells that are only shown: nbdev, which runs public code, finds it here
NAMES = '#| exec_doc\n#| hide\nglobals().update(vars(__import__("crane.{module}", fromlist=["crane"])))'


def prepare(nb, module):
    "Keep what nbdev would drop: prose in the title's cell, and the source of exported cells (shown folded)."
    first, *others = nb.cells
    title = re.match(r"# .+\n(\n*> .+\n)?", first.source + "\n")[0]
    cells = [mk_cell(title.strip(), "markdown"), mk_cell(first.source[len(title) :].strip(), "markdown")]
    if module in MODULES:
        cells.append(mk_cell(NAMES.format(module=module)))
    for c in others:
        cells += prepared(c)
    nb.cells = cells


def prepared(c):
    "A cell as nbdev shall see it: public code is documented, other exported code only shown."
    directive, code = re.match(r"(?:#\| (exporti?)\n)?(.*)", c.source, re.S).groups()
    imports_only = all(re.match(r"(from|import) |$", line) for line in code.split("\n"))
    if c.cell_type != "code" or imports_only:
        return [c]
    if directive == "export":
        return [mk_cell(f"#| exports\n{p}") for p in pieces(code)]
    if directive == "exporti":
        return [mk_cell(f"#| eval: false\n{FOLDED}{code}")]
    if re.search(r"^\s*(from|import) ", code, re.M):
        c.source = f"#| eval: false\n{code}"  # nbdev would run an import without what the cell builds on
    return [c]


def documented(text, module):
    "What nbdev writes about a name: with a link to its source among our pages, and without links in code."
    text = re.sub(r"\[source\]\(.*?\)\{.*?\}\n*", "", text).replace("\n\n*Call self as a function.*", "")
    for said, meant in (r"(\w+):VAR_POSITIONAL", r"*\1"), (r"(\w+):VAR_KEYWORD", r"**\1"), (r"\bdata:Any\b", "**data"):
        text = re.sub(said, meant, text)
    text = re.sub(r"\(\s*\)", "()", re.sub(r":\s+```", ":\n```", text.replace("```python\n\n", "```python\n")))
    text = re.sub(r"```.*?```", lambda m: re.sub(r"\[(`.*?`)\]\(.*?\)", r"\1", m[0]), text, flags=re.S)
    line = {n.name: n.line for n in api().get(module, [])}
    heading = re.match(r"---\n\n### (\S+)\n", text)
    name = heading[1] if heading else ""
    methods = [n for n in line if n.endswith(f".{name}")]  # nbdev calls some methods without their class
    whole = name if name in line else next(iter(methods), "")
    if not whole:
        return text
    link = f"[\\[source\\]](src/{module}.md#L-{line[whole]}){{.source-link}}"
    return text.replace(f"### {name}\n", f"### {whole}\n\n{link}\n", 1)


def sure(text):
    "Text without the links that nbdev gave to names which may mean something else."
    return re.sub(r"\[`([\w.]+)`\]\(\w+\.html#[^)]*\)", lambda m: m[0] if m[1] in targets() else f"`{m[1]}`", text)


def tidy(cell, module):
    "What nbdev leaves for Quarto, said as smalldocs wants it."
    cfg = get_config()
    here = f"{cfg.doc_host}{cfg.doc_baseurl}/"  # nbdev links our names by the site's address; ours are relative
    if cell.cell_type == "markdown":
        cell.source = formulas(sure(relink(cell.source, SITE_LINKS).replace(here, "")))
    if cell.cell_type == "raw":
        cell.source = re.sub(r"^output-file:.*\n", "", cell.source, flags=re.M)
    shown = '#| code-fold: show\n#| code-summary: "Exported source"\n'
    cell.source = re.sub(r"^#\| (exports|eval: false)\n", "", cell.source, flags=re.M).replace(shown, FOLDED)
    for o in cell.get("outputs", []):
        text = "".join(o.get("data", {}).get("text/markdown", ""))
        if text:
            o["data"]["text/markdown"] = sure(relink(documented(text, module), SITE_LINKS).replace(here, ""))


def process(path):
    "One notebook, processed by nbdev, under its module's name."
    nb, name = read_nb(path), module_of(path.stem)
    copies = promoted()
    if name == "index":
        copies = {name: dict2nb(json.loads(nbformat.writes(executed_index())))}
    same, origin = with_outputs(nb, shown_cells(copies))
    prepare(nb, name)
    notes = [c.source for c in copies[origin[0]].cells if c.get("id") == "executed-by"] if origin else []
    if origin and not same:
        notes.append(CHANGED)
    nb.cells[2:2] = [mk_cell(text, "markdown") for text in notes]
    nb = dict2nb(nb)
    FilterDefaults()(nb)
    for c in nb.cells:
        tidy(c, name)
    write_nb(nb, proc / f"{name}.ipynb")


# ---- pages of what is no notebook


def page(name, title, body, **front):
    "A Markdown page of the site."
    path = proc / f"{name}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"---\n{yaml.safe_dump(dict(title=title, **front), allow_unicode=True, sort_keys=False)}---\n\n{body}\n"
    )


def cell(text):
    return outside_code(str(text).replace("|", "\\|"), lambda t: html.escape(t, quote=False))


def rows(*lines):
    ruled = lines[0], ["---"] * len(lines[0]), *lines[1:]
    return "\n".join(f"| {' | '.join(line)} |" for line in ruled) + "\n"


def plain(n):
    return n.replace("_", "\\_")


def api_page():
    "Every public name with what it says, on one page."
    says = (
        "A name leads to where its notebook documents it, `code` to its lines. What has no link here is a constant.\n"
    )
    body = [says]
    for m, p in MODULES.items():
        names = [[linked(m, n), cell(n.says), f"[code](src/{m}.md#L-{n.line})"] for n in api()[m]]
        body += [
            f"## crane.{plain(m)} {{#{m}}}\n",
            f"From the notebook [{p.stem.replace('_', ' ')}]({m}.ipynb).\n",
            rows(["name", "what it is", ""], *names),
        ]
    page("api", "API", "\n".join(body), description="Every public name of the package, by module", **{"toc-depth": 2})


def linked(module, name):
    return f"[`{name.name}`]({module}.ipynb{name.anchor})" if name.anchor else f"`{name.name}`{{.nolink}}"


def source_pages():
    "Each module with an anchor for every line."
    for m, p in MODULES.items():
        code, fence = (root / "crane" / f"{m}.py").read_text(), "`" * 9
        says = f"Exported from the notebook [{p.stem}](../{m}.ipynb); that is where it is edited."
        body = f'{says}\n\n{fence}{{#L .python code-line-numbers="true"}}\n{code}{fence}'
        page(f"src/{m}", f"crane/{m}.py", body, search=False, toc=False)


@cache
def headings():
    "Table or figure -> the heading under which a notebook makes it."
    found = {}
    for m in "report", "figures":
        head = ""
        for c in read_nb(MODULES[m]).cells:
            if c.cell_type == "markdown":
                head = (re.findall(r"^## (.+)$", c.source, re.M) or [head])[-1]
            else:
                found |= dict.fromkeys(saved(c.source), head.split(": ", 1)[-1])
    return found


def saved(code):
    "The names under which a cell saves tables and figures."
    for statement in parsed(code):
        for n in ast.walk(statement):
            if isinstance(n, ast.Call) and ast.unparse(n.func) in ("save_table", "save_figure"):
                constants = [a.value for a in n.args if isinstance(a, ast.Constant)]
                yield from (x for x in constants if re.fullmatch(r"\w+", str(x)))


def shown(name):
    return f"{name}: {headings()[name]}" if name in headings() else name


def table_pages():
    "Each promoted table on a page of its own, and all tables and figures on one."
    texts = {p.stem: p.read_text() for p in sorted(figures.glob("*.md")) if p.stem not in ("ledger", "controls")}
    for n, text in texts.items():
        files = f"Also as [CSV]({n}.csv) and [LaTeX]({n}.tex)."
        made = "Made in [the report](../report.ipynb) from [results.json](results.json)."
        page(f"figures/{n}", shown(n), f"{text}\n{files} {made}", toc=False)
    captions = [[f"[{plain(n)}](figures/{n}.md)", cell(text.strip().split("\n")[-1])] for n, text in texts.items()]
    body = ["## Tables\n", rows(["table", "what it shows"], *captions) if captions else NOT_YET]
    for p in sorted(figures.glob("F*.png")):
        body += [
            f"## {shown(p.stem)} {{#{p.stem}}}\n",
            f"![{shown(p.stem)}](figures/{p.name})\n",
            f"Also as [PDF](figures/{p.stem}.pdf).\n",
        ]
    says = "Everything that the promoted run has made"
    page("results", "Tables and figures", "\n".join(body), description=says)


def where(text):
    "Where a claim is decided, as links."
    stage, _, rest = text.partition(", ")
    module = module_of(stage)
    if module not in MODULES:
        return text
    results = re.sub(r"\b[TF]\d\w*", _result, rest)
    return f"[{stage}]({module}.ipynb), {results}"


def _result(m):
    return f"[{m[0]}](figures/{m[0]}.md)" if (figures / f"{m[0]}.md").exists() else f"[{m[0]}](results.md#{m[0]})"


def badge(claim):
    return f'<span class="verdict {claim["verdict"].split()[0]}">{claim["verdict"]}</span>'


def claim_in_full(k, c):
    "The lines of one claim."
    tolerance = f". Tolerance: {c['tolerance']}" if c["tolerance"] else ""
    return [
        f"## {k}. {cell(c['claim'])} {{#claim-{k}}}\n",
        f"{badge(c)} ({c['kind']})\n",
        f"* **Rule:** {cell(c['rule'])}{tolerance}",
        f"* **Paper:** {c['paper']} %" if c["paper"] else "* **Paper:** in words only",
        f"* **Ours, %:** {cell(c['ours'])}" if c["ours"] else "* **Ours:** not measured",
        f"* **Where:** {where(c['where'])}" if c["where"] else "",
        "",
    ]


def claims_page():
    "Every claim of the paper with its rule and its verdict."
    path = figures / "ledger.json"
    claims = json.loads(path.read_text()) if path.exists() else []
    body = [(nbs / "claims.md").read_text()]
    lines = [[f"[{cell(c['claim'])}](#claim-{k})", cell(c["paper"]), badge(c)] for k, c in enumerate(claims, 1)]
    body.append(rows(["claim", "paper, %", "verdict"], *lines) if claims else NOT_YET)
    drawn = ", ".join(f"[{shown(p.stem)}](results.md#{p.stem})" for p in sorted(figures.glob("F*.png")))
    if drawn:
        body.append(f"Figures: {drawn}.\n")
    for k, c in enumerate(claims, 1):
        body += claim_in_full(k, c)
    says = "What the paper claims, the rule that decides, and what came out here"
    page("claims", "The ledger", "\n".join(body), description=says, **{"toc-depth": 2})


def made_card():
    "The benchmark's data card as the promoted run has written it."
    texts = []
    for nb in promoted().values():
        for c in code_cells(nb):
            if "data_card(" in c.source:
                texts += [o["data"]["text/markdown"] for o in c.outputs if "text/markdown" in o.get("data", {})]
    return re.sub(r"^(#+) ", r"#\1 ", "".join(texts[-1]), flags=re.M) if texts else NOT_YET


def slots():
    "What the cards say of the data and the models, by name."
    training, config = (json.loads((data / "pocket" / f"{n}.json").read_text()) for n in ("training", "config"))
    router = re.sub(r"^---.*?---\n", "", (data / "router" / "README.md").read_text(), flags=re.S)
    skills = (figures / "T0.md").read_text() if (figures / "T0.md").exists() else NOT_YET
    return dict(
        sources=(data / "SOURCES.md").read_text(),
        benchmark=made_card(),
        router=re.sub(r"^# ", "## ", router, flags=re.M),
        skills=skills,
        layers=config["text_config"]["num_hidden_layers"],
        width=config["text_config"]["hidden_size"],
        vocabulary=config["text_config"]["vocab_size"],
        minutes=round(training["seconds"] / 60),
        threads=training["threads"],
        megabytes=f"{(data / 'pocket' / 'model.safetensors').stat().st_size / 1e6:.1f}",
        **training["steps"],
    )


def card_page():
    "Data and model cards on one page."
    says = "What the data and the models are, where they come from, and what they are not for"
    page("cards", "Data and model cards", (nbs / "cards.md").read_text().format(**slots()), description=says)


def split_of_ours(name):
    "A configuration of the data-set card: what `05a_benchmark` left of the smoke run."
    files = [
        dict(
            split=dict(train="train", valid="validation", test="test")[s],
            path=f"smoke/05a_benchmark/{s}.{name}.parquet",
        )
        for s in ("train", "valid", "test")
    ]
    return dict(config_name=name, data_files=files)


CARDS = {  # file below crane/data -> section of nbs/cards.md, and what the Hub reads on top
    "README.md": (
        "world",
        dict(
            pretty_name="The pocket world and a small ReasonEdit-Bench",
            license="other",
            license_name="of-each-source",
            license_link="SOURCES.md",
            language=["en"],
            size_categories=["1K<n<10K"],
            task_categories=["visual-question-answering", "question-answering"],
            tags=["knowledge-editing", "reasoning", "flags"],
            configs=[
                dict(config_name="world", data_files="world.parquet", default=True),
                dict(config_name="second_domain", data_files="second_domain.parquet"),
                split_of_ours("edits"),
                split_of_ours("probes"),
            ],
        ),
    ),
    "pocket/README.md": (
        "pocket",
        dict(
            license="apache-2.0",
            language=["en"],
            library_name="transformers",
            pipeline_tag="image-text-to-text",
            tags=["llava", "reasoning", "knowledge-editing"],
        ),
    ),
}


def hub_cards():
    "The cards that lie beside the data and the model, in the form of the Hugging Face Hub."
    parts = dict(
        re.findall(r"^## .+? \{\{#(\w+)\}\}\n(.+?)(?=^## |^\{router\}|\Z)", (nbs / "cards.md").read_text(), re.M | re.S)
    )
    for name, (part, front) in CARDS.items():
        up = "../" * (2 + name.count("/"))
        given = slots() | dict(benchmark=SHIPPED_BENCHMARK, skills=f"see [T0]({up}figures/T0.md).\n")
        body = parts[part].format(**given)
        body = re.sub(r"\]\((\w+)\.ipynb", lambda m, up=up: f"]({up}nbs/{MODULES[m[1]].name}", body)
        head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
        yield data / name, f"---\n{head}---\n# {TITLES[part]}\n\n{body.strip()}\n"


TITLES = dict(world="The pocket world and a small ReasonEdit-Bench", pocket="The pocket reasoning MLLM")
SHIPPED_BENCHMARK = (
    "\n**The benchmark.** `smoke/05a_benchmark` is what the smallest run leaves: edits of three kinds, their probes, "
    "and in each file its pictures. A run of the size `pocket` makes the one that results are from. "
    "`datasets.load_dataset` takes the folder of this card, and one of the configurations above.\n"
)


spec = importlib.util.spec_from_file_location("where_time_goes", root / "benchmarks/where_time_goes.py")
where_time_goes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(where_time_goes)
SHOWN_RUNS = {
    root / "benchmarks/times/pocket.json": "the run behind `make reproduce`",
    figures / "provenance.json": "the promoted run",
    data / "smoke" / "about.json": "the shipped smoke run",
}


def timed_run():
    "The first shown run that has recorded where its time went, and what it is called; None if none has."
    for path, called in SHOWN_RUNS.items():
        about = json.loads(path.read_text()) if path.exists() else dict(stages={})
        if about["stages"] and all("spans" in stage for stage in about["stages"].values()):
            return about, called
    return None, ""


def machine_of(about):
    "What a kept file was made on."
    return "{cores} cores of {cpu}".format(**about["hardware"])


def times_page():
    "Minutes by notebook and kind of work."
    about, called = timed_run()
    table, whose = "*No shown run has recorded its times yet.*\n", ""
    if about:
        t = where_time_goes.minutes(about["stages"])
        names = [f"[{s}]({module_of(s)}.ipynb)" if s in notebooks(root) else s for s in t.index]
        table = where_time_goes.markdown(t.set_axis(names).rename_axis("notebook"))
        whose = f"These are the times of {called} (profile {about['profile']}), on {machine_of(about)}."
    text = (nbs / "times.md").read_text().format(table=table, whose=whose)
    page("times", "Where the time goes", text, description="What a run does with its time")


def reliability_page():
    "Which faults were tried where, and how many were survived."
    path = root / "benchmarks" / "faults.json"
    table, whose = "*No set of faults has been kept yet: `make faults` does it.*\n", ""
    if path.exists():
        kept = json.loads(path.read_text())
        lines = [
            [cell(r["fault"]), cell(r["place"]), f"{r['tried']:,}", f"{r['survived']:,}", cell(r["sees"])]
            for r in kept["rows"]
        ]
        table = rows(["fault", "place", "tried", "survived", "what the user sees"], *lines)
        whose = f"Tried on {kept['date']} with commit {kept['commit'][:8]}, on {machine_of(kept)}."
    text = (nbs / "reliability.md").read_text().format(table=table, whose=whose)
    page("reliability", "Reliability", text, description="Which faults were tried, and what came of them")


def shell_page():
    "What the command does, by examples that a test runs."
    says = "The command line by examples, from a first look to a cluster"
    page("shell", "From the shell", (nbs / "shell.md").read_text(), description=says)


def themes():
    "Bootstrap in light, and with its dark values for all: the themes of smalldocs fetch a font, or have no dark form."
    css = (Path(smalldocs.__file__).parent / "assets/vendor/bootstrap/bootstrap.min.css").read_text()
    for name, text in ("light", css), ("dark", css.replace("[data-bs-theme=dark]", ":root")):
        (proc / f"{name}.css").write_text(re.sub(r"/\*# sourceMappingURL.*", "", text))


class Links(html.parser.HTMLParser):
    "The ids and the links of a page."

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a.get("id"), a.get("name")} - {None}
        self.links |= {a.get("href"), a.get("src")} - {None, ""}


def broken_links(site):
    "Every internal link of a site whose page, file or anchor does not exist."
    pages = {p: Links(p.read_text()) for p in sorted(site.rglob("*.html"))}
    for p, page in pages.items():
        for link in sorted(page.links):
            if re.match(r"[a-z][a-z0-9+.-]*:|//", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (p.parent / path.split("?")[0]).resolve() if path else p
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                yield f"{p.relative_to(site)}: {link} (no such file)"
            elif anchor and target in pages and anchor not in pages[target].ids:
                yield f"{p.relative_to(site)}: {link} (no such anchor)"


def write_pages():
    "All pages as smalldocs reads them."
    paths = [*notebooks(root).values()]
    for k, p in enumerate(paths, 1):
        print(f"docs: [{k}/{len(paths)}] {p.stem}", flush=True)
        process(p)
    for f in "_quarto.yml", "sidebar.yml", "styles.css", "favicon.svg", "glossary.md":
        shutil.copy(nbs / f, proc / f)
    if figures.exists():
        shutil.copytree(figures, proc / "figures", ignore=shutil.ignore_patterns("notebooks", "*.md"))
    makers = (
        themes,
        api_page,
        source_pages,
        table_pages,
        claims_page,
        card_page,
        times_page,
        reliability_page,
        shell_page,
    )
    for make in makers:
        make()
    (proc / "_symbols.json").write_text(json.dumps({n: f"/{at}" for n, at in targets().items()}))


def build(to):
    "The whole site."
    if to.exists() and any(to.iterdir()) and not (to / "site_libs").exists():
        sys.exit(f"docs: {to} holds something else than a site: name another folder.")
    shutil.rmtree(proc, ignore_errors=True)
    proc.mkdir()
    os.environ["IN_TEST"] = "1"  # nbdev's switch: the notebooks' own exports stay off
    os.chdir(nbs)
    write_pages()
    r = subprocess.run([sys.executable, "-m", "smalldocs.cli", "render", "--strict", "--quiet", str(proc)])
    if r.returncode:
        sys.exit("docs: smalldocs found something wrong (above); mend the notebook or nbs/_quarto.yml.")
    for p in (proc / "_docs").rglob("*.html"):
        p.write_text(p.read_text().replace('class="img-fluid">', 'class="img-fluid" alt="drawn by the cell above">'))
    broken = list(broken_links(proc / "_docs"))
    if broken:
        sys.exit("\n".join(["docs: broken links:", *broken]))
    shutil.rmtree(to, ignore_errors=True)
    shutil.move(proc / "_docs", to)
    print(f"docs: {len(list(to.rglob('*.html')))} pages in {os.path.relpath(to, root)}, no broken link")


if __name__ == "__main__":
    args = sys.argv[1:]
    if args[:1] == ["build"]:
        build(Path(args[1]).resolve() if args[1:] else root / "_docs")
    elif args[:1] == ["readme"]:
        for path, text in [(root / "README.md", readme()), *hub_cards()]:
            if args[1:] != ["--check"]:
                write_atomic(path, text)
            elif not path.exists() or path.read_text() != text:
                sys.exit(f"{path.relative_to(root)} is not what nbs/ gives: run 'make readme'.")
    else:
        sys.exit(__doc__)
