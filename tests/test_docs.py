"The site builds offline, whole, with no broken link; the checker that says so finds what is broken."
import importlib.util, re, subprocess, sys
from pathlib import Path
from types import SimpleNamespace as Cell
import pytest
from crane.reproduce import notebooks

root = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location('docs', root/'scripts/docs.py')
docs = importlib.util.module_from_spec(spec); spec.loader.exec_module(docs)

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    to = tmp_path_factory.mktemp('site')/'_docs'
    r = subprocess.run([sys.executable, 'scripts/docs.py', 'build', str(to)], cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr
    return to

def test_every_notebook_has_a_page_named_after_its_module(site):
    pages = {s[3:] if s[:2].isdigit() else s for s in notebooks(root)}
    assert {p.stem for p in site.glob('*.html')} - {'404'} == pages

def test_no_broken_link(site): assert list(docs.broken_links(site)) == []

def test_a_page_shows_prose_signature_and_source(site):
    page = (site/'reproduce.html').read_text()
    for what in '<strong>In</strong>', 'id="load_profile"', '<details', 'One command must take a stranger': assert what in page
    assert 'github.com' not in page

def test_names_are_linked_within_the_site(site):
    assert re.search(r'href="(\./)?core\.html#craneerror"', (site/'reproduce.html').read_text())
    assert not [p.name for p in site.glob('*.html') if 'crane-companion.github.io' in p.read_text()]

def test_the_checker_finds_what_is_broken(tmp_path):
    (tmp_path/'a.html').write_text('<a href="b.html#there">ok</a> <a href="b.html#not">anchor</a> <a href="c.html">page</a> <img src="x.png"> <a href="#top">self</a> <a href="https://example.org/x">far</a>')
    (tmp_path/'b.html').write_text('<p id="there"><a href="a.html">back</a>')
    assert list(docs.broken_links(tmp_path)) == ['a.html: #top (no such anchor)', 'a.html: b.html#not (no such anchor)', 'a.html: c.html (no such file)', 'a.html: x.png (no such file)']

def test_outputs_go_only_under_the_same_source():
    cell = lambda id, source, outputs=(): Cell(cell_type='code', id=id, source=source, outputs=list(outputs), get=lambda k: id)
    nb = Cell(cells=[cell('a', '1+1'), cell('b', '2+3')])
    docs.with_outputs(nb, Cell(cells=[cell('a', '1+1', ['2']), cell('b', '2+2', ['4'])]))
    assert [c.outputs for c in nb.cells] == [['2'], []]

def test_exported_cells_are_cut_at_public_names():
    code = 'N = 1\ndef a(): pass\ndef _b(): pass\n\n@x\ndef c(): pass'
    assert docs.pieces(code) == ['N = 1\ndef a(): pass\ndef _b(): pass', '@x\ndef c(): pass']
    assert docs.pieces('N = 1') == ['N = 1']

def test_links_are_rewritten_for_readme_and_site():
    text = '[a](01_world.ipynb) ![b](../figures/b.png)'
    assert docs.relink(text, docs.REPO_LINKS) == '[a](nbs/01_world.ipynb) ![b](figures/b.png)'
    assert docs.relink(text, docs.SITE_LINKS) == '[a](world.ipynb) ![b](figures/b.png)'
