"""The site builds offline, whole, with no broken link.

A browser reads it: no error, no request elsewhere, search, pictures, light and dark, a phone.
"""

import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace as Cell

import pytest
import websocket
import yaml
from conftest import script

from crane.plan import is_stage, module_of, notebooks

root = Path(__file__).resolve().parent.parent
docs = script("scripts/docs.py")
BASE = "crane-companion"  # the sub-path under which it is served


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    to = tmp_path_factory.mktemp("site") / BASE
    r = subprocess.run(
        [sys.executable, "scripts/docs.py", "build", str(to)],
        cwd=root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert r.returncode == 0, r.stdout + r.stderr
    return to


def pages_of(site):
    return sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html"))


# ---- what was written


def test_every_notebook_has_a_page_named_after_its_module(site):
    pages = set(map(module_of, notebooks(root)))
    assert {p.stem for p in site.glob("*.html")} == pages | {
        *("api", "claims", "results", "cards", "times", "reliability", "glossary", "shell")
    }


def test_no_broken_link(site):
    assert list(docs.broken_links(site)) == []


def test_a_page_shows_prose_signature_and_source(site):
    page = (site / "reproduce.html").read_text()
    for what in "<strong>In</strong>", 'id="promote"', "<details", "One command must take a stranger":
        assert what in page
    assert 'id="load_profile"' in (site / "plan.html").read_text()
    assert "github.com" not in page
    jargon = re.compile("Call self as a function|VAR_KEYWORD|VAR_POSITIONAL")
    assert [p for p in pages_of(site) if jargon.search((site / p).read_text())] == []


def test_exported_code_that_is_not_public_is_shown_folded_and_not_documented(site):
    page = docs.html.unescape(re.sub(r"<[^>]+>", "", (site / "reproduce.html").read_text()))
    assert "def run_notebook(" in page
    assert 'id="run_notebook"' not in (site / "reproduce.html").read_text()
    assert "exporti" not in page and "eval: false" not in page


def test_what_is_read_is_what_was_run(site):
    have = docs.shown_cells(docs.promoted())
    outputs = []
    for c in docs.code_cells(docs.read_nb(root / "nbs/00_core.ipynb")):
        was = have.get(c.id)
        if was and was.meaning == docs.meaning(c.source):
            outputs += [o["data"] for o in was.outputs if "data" in o]
    texts = [t for t in ("".join(data["text/plain"]) for data in outputs) if "<" not in t]
    page = docs.html.unescape((site / "core.html").read_text())
    assert texts and all(t in page for t in texts)


def test_names_are_linked_within_the_site(site):
    assert re.search(r'href="(\./)?core\.html#craneerror"', (site / "plan.html").read_text())
    assert re.search(
        r'<a href="(\./)?library\.html#duallibrary"><code>DualLibrary</code>',
        (site / "use_the_library.html").read_text(),
    )
    assert not [p for p in pages_of(site) if "crane-companion.github.io" in (site / p).read_text()]


def test_words_that_may_mean_something_else_are_not_linked():
    sure = docs.targets()
    assert (
        sure["DualLibrary"] == "library.html#duallibrary"
        and sure["DualLibrary.add"]
        and sure["06c_retrieval"] == "retrieval.html"
    )
    # a split, a field, a kind of probe, two functions, a module too
    assert not {"train", "answer", "text_locality", "rows_of", "reproduce"} & {*sure}


def test_the_api_lists_every_exported_name_and_its_line(site):
    page = (site / "api.html").read_text()
    names = docs.api()
    for m in docs.MODULES:
        assert {n.name for n in names[m]} >= set(importlib.import_module(f"crane.{m}").__all__), m
    for of_module in names.values():
        assert [n.name for n in of_module if f">{n.name}</code>" not in page] == []
    n = next(n for n in names["retrieval"] if n.name == "DualLibrary.retrieve")
    lines = (root / "crane/retrieval.py").read_text().split("\n")
    assert lines[n.line - 1].startswith("def retrieve(")
    assert f"src/retrieval.html#L-{n.line}" in page
    assert f"src/retrieval.html#L-{n.line}" in (site / "retrieval.html").read_text()


def test_the_ledger_page_has_every_claim_with_its_verdict(site):
    page = docs.html.unescape((site / "claims.html").read_text()).replace("’", "'")
    for c in json.loads((root / "figures/ledger.json").read_text()):
        assert c["claim"] in page and c["rule"].replace("`", "") in page and f">{c['verdict']}</span>" in page


def test_the_checker_finds_what_is_broken(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">ok</a> <a href="b.html#not">anchor</a> <a href="c.html">page</a> '
        '<img src="x.png"> <a href="#top">self</a> <a href="https://example.org/x">far</a>'
    )
    (tmp_path / "b.html").write_text('<p id="there"><a href="a.html">back</a>')
    assert list(docs.broken_links(tmp_path)) == [
        "a.html: #top (no such anchor)",
        "a.html: b.html#not (no such anchor)",
        "a.html: c.html (no such file)",
        "a.html: x.png (no such file)",
    ]


def test_outputs_go_only_under_the_same_source():
    nb = Cell(cells=[code("a", "x = 1"), code("b", "x+1"), code("c", "x = 3"), code("d", "x+2"), code("e", "x+1")])
    ran = [
        code("a", "x = 1"),
        code("p", "x = 2", tags=["injected-parameters"]),
        code("b", "x+1", ["3"]),
        code("c", "x = 2"),
        code("d", "x+2", ["4"]),
    ]
    have = docs.shown_cells(dict(old=Cell(cells=ran)))
    assert docs.with_outputs(nb, have) == (False, ["old"])
    assert [c.outputs for c in nb.cells] == [[], ["3"], [], ["4"], []]
    again = Cell(cells=[code(c.get("id"), c.source) for c in ran if not c.metadata["tags"]])
    assert docs.with_outputs(again, have) == (True, ["old"]), "and says whether anything has changed"


def test_outputs_follow_a_cell_to_another_notebook_and_through_reformatting():
    ran = [code("a", "import a, b"), code("b", "f('x',1) # why", ["1"]), code("c", "%time f('x')", ["2"])]
    have = docs.shown_cells(dict(one=Cell(cells=ran), two=Cell(cells=[code("d", "y", ["3"])])))
    nb = Cell(
        cells=[code("i", "import b"), code("b", 'f("x", 1)'), code("c", "%time f('x')"), code("d", "#| echo: false\ny")]
    )
    assert docs.with_outputs(nb, have) == (True, ["one", "two"])
    assert [c.outputs for c in nb.cells] == [[], ["1"], ["2"], ["3"]]
    assert docs.with_outputs(Cell(cells=[code("c", "%time f('y')")]), have) == (False, [])


def code(id, source, outputs=(), tags=()):
    "A code cell of a notebook."
    of = dict(id=id)
    return Cell(cell_type="code", source=source, outputs=list(outputs), metadata=dict(tags=[*tags]), get=of.get)


def test_exported_cells_are_cut_at_public_names():
    code = "N = 1\ndef a(): pass\ndef _b(): pass\n\n@x\ndef c(): pass"
    assert docs.pieces(code) == ["N = 1\ndef a(): pass\ndef _b(): pass", "@x\ndef c(): pass"]
    assert docs.pieces("N = 1") == ["N = 1"]


def test_links_are_rewritten_for_readme_and_site():
    text = "[a](01_world.ipynb) ![b](../figures/b.png)"
    assert docs.relink(text, docs.REPO_LINKS) == "[a](nbs/01_world.ipynb) ![b](figures/b.png)"
    assert docs.relink(text, docs.SITE_LINKS) == "[a](world.ipynb) ![b](figures/b.png)"


def test_the_page_of_times_shows_the_first_run_that_has_recorded_them(tmp_path, monkeypatch):
    promoted, smoke = tmp_path / "provenance.json", tmp_path / "about.json"
    monkeypatch.setattr(docs, "SHOWN_RUNS", {promoted: "the promoted run", smoke: "the shipped smoke run"})
    monkeypatch.setattr(docs, "proc", tmp_path)
    about = dict(profile="x", hardware=dict(cpu="y", cores=2))

    def shown():
        docs.times_page()
        return (tmp_path / "times.md").read_text()

    assert "No shown run has recorded its times yet" in shown()
    promoted.write_text(json.dumps(about | dict(stages={"00_core": dict(seconds=60)})))
    smoke.write_text(json.dumps(about | dict(stages={"00_core": dict(seconds=120, spans=dict(train=60))})))
    assert "the shipped smoke run (profile x), on 2 cores of y." in shown()
    assert "| [00_core](core.ipynb) |  | 1.0 |  |  |  |  | 1.0 | 2.0 |" in shown()
    promoted.write_text(json.dumps(about | dict(stages={"00_core": dict(seconds=60, spans={})})))
    assert "the promoted run" in shown()


def test_the_page_of_faults_shows_what_was_kept(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(docs, "root", tmp_path)
    monkeypatch.setattr(docs, "proc", tmp_path)
    docs.reliability_page()
    assert "No set of faults has been kept yet" in (tmp_path / "reliability.md").read_text()
    row = dict(fault="<b>a bomb</b>", place="a | b", tried=1200, survived=1199, sees="x.png is none")
    kept = dict(date="2026-01-02", commit="0123456789", hardware=dict(cpu="y", cores=2), rows=[row])
    (tmp_path / "benchmarks/faults.json").write_text(json.dumps(kept))
    docs.reliability_page()
    shown = (tmp_path / "reliability.md").read_text()
    assert "| &lt;b&gt;a bomb&lt;/b&gt; | a \\| b | 1,200 | 1,199 | x.png is none |" in shown
    assert "Tried on 2026-01-02 with commit 01234567, on 2 cores of y." in shown


def test_formulas_are_html_and_unknown_ones_are_refused():
    first = '<span class="formula">u\u0303<sup>⊤</sup></span>'
    second = '<span class="formula">e<sup>−d<sup>2</sup></sup> &gt; x</span>'
    text = r"by $\tilde u^\top$ and $e^{-d^2} > x$; `$a$` costs $5 or $6"
    assert docs.formulas(text) == f"by {first} and {second}; `$a$` costs $5 or $6"
    with pytest.raises(SystemExit, match="frac"):
        docs.formula(r"\frac{1}{2}")


# ---- what a browser makes of it

# of what stands on a page; smalldocs cuts off what is wider than the text, so that the page itself never scrolls
WIDTH = """(() => {
  const m = document.querySelector("main");
  return Math.max(document.documentElement.scrollWidth, innerWidth + m.scrollWidth - m.clientWidth) })()"""


class Browser:
    "Headless Chromium over its DevTools protocol."

    def __init__(self, program, folder):
        self.process = subprocess.Popen(
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--remote-debugging-port=0",
                "--remote-allow-origins=*",
                f"--user-data-dir={folder}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port = self.wait(
            lambda: (
                (folder / "DevToolsActivePort").exists() and (folder / "DevToolsActivePort").read_text().split("\n")[0]
            )
        )
        self.n, self.events = 0, []
        tab = self.wait(
            lambda: next(
                (t for t in json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json")) if t["type"] == "page"),
                None,
            )
        )
        self.socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=60)
        for domain in "Page", "Runtime", "Log", "Network":
            self.call(f"{domain}.enable")

    def wait(self, ready, seconds=60):
        end = time.time() + seconds
        while time.time() < end:
            if x := ready():
                return x
            time.sleep(0.1)
        raise AssertionError("chromium did not get ready")

    def read(self):
        m = json.loads(self.socket.recv())
        if "method" in m:
            self.events.append(m)
        return m

    def call(self, method, **params):
        self.n += 1
        n = self.n
        self.socket.send(json.dumps(dict(id=n, method=method, params=params)))
        while (m := self.read()).get("id") != n:
            pass
        assert "error" not in m, m
        return m["result"]

    def js(self, code):
        r = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in r, r["exceptionDetails"]
        return r["result"].get("value")

    def shape(self, width):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )

    def open(self, url, scheme="light"):
        "Load a page; its errors and requests are in `events`."
        self.shape(1280)
        self.call("Emulation.setEmulatedMedia", features=[dict(name="prefers-color-scheme", value=scheme)])
        for where in "about:blank", url:
            self.events.clear()
            self.call("Page.navigate", url=where)
            while not any(e["method"] == "Page.loadEventFired" for e in self.events):
                self.read()
        self.js("new Promise(r => setTimeout(r, 50))")

    def faults(self, host):
        "What went wrong on the page that was opened."
        for e in self.events:
            p = e["params"]
            if e["method"] == "Runtime.exceptionThrown":
                yield p["exceptionDetails"]["exception"].get("description", str(p))
            if e["method"] == "Runtime.consoleAPICalled" and p["type"] in ("error", "assert"):
                yield str(p["args"])
            if e["method"] == "Log.entryAdded" and p["entry"]["level"] == "error":
                yield p["entry"]["text"] + " " + p["entry"].get("url", "")
            if e["method"] == "Network.requestWillBeSent" and not p["request"]["url"].startswith(
                (host, "data:", "about:", "blob:")
            ):
                yield f"asks {p['request']['url']}"
            if e["method"] == "Network.responseReceived" and p["response"]["status"] >= 400:
                yield f"{p['response']['status']} {p['response']['url']}"

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def host(site):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), dict(log_message=lambda *a: None))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=str(site.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{BASE}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not program:
        say = "no chromium is installed, so no page was looked at: 'apt-get install chromium', then run the tests again"
        pytest.fail(say) if os.environ.get("CI") == "true" else pytest.skip(say)
    b = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield b
    b.close()


CONTRAST = """(() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const over = (a, b) => a.slice(0, 3).map((x, i) => x*(a[3] ?? 1) + b[i]*(1-(a[3] ?? 1)));
  const ground = e => {
    const all = [];
    for (; e; e = e.parentElement) all.push(rgb(getComputedStyle(e).backgroundColor));
    return all.reverse().reduce((b, a) => over(a, b), [255, 255, 255]) };
  const light = c => {
    const [r, g, b] = c.map(x => (x /= 255) <= .03928 ? x/12.92 : ((x+.055)/1.055)**2.4);
    return .2126*r + .7152*g + .0722*b };
  const texts = ["main p", "main li", "main td", "main th", "main code", "main a", "main h1", "main h2", "main h3",
    "main pre span", "main summary", "#quarto-sidebar a", "#TOC a"];
  const low = [];
  for (const e of document.querySelectorAll(texts.join(", "))) {
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const back = ground(e), a = light(over(rgb(getComputedStyle(e).color), back)), b = light(back);
    const k = (Math.max(a, b)+.05)/(Math.min(a, b)+.05);
    if (k < 4.5) low.push([e.tagName, e.className, e.textContent.trim().slice(0, 40), Math.round(k*100)/100]);
  }
  return [ground(document.querySelector("main")), low.slice(0, 5)] })()"""


def has_colours_of_its_own(p):
    "Sources and tables show the same over and over."
    return "/" not in p or p in ("src/core.html", "figures/T1.html")


@pytest.fixture(scope="module")
def visits(site, host, browser):
    "Each page opened once: its faults, its title, what is hard to read in light, and how wide it is on a phone."
    seen = {}
    for p in pages_of(site):
        browser.open(host + p)
        seen[p] = Cell(
            faults=list(browser.faults(host)),
            title=browser.js('document.querySelector("main h1")?.innerText.trim() || ""'),
            contrast=browser.js(CONTRAST) if has_colours_of_its_own(p) else None,
        )
        browser.shape(390)
        seen[p].width = browser.js(WIDTH)
    return seen


def test_every_page_loads_without_errors_and_asks_nobody_else(visits):
    assert {p: v.faults for p, v in visits.items() if v.faults} == {}


def test_every_page_has_a_title(visits):
    assert [p for p, v in visits.items() if not v.title] == []


def test_no_page_scrolls_sideways_on_a_phone(visits):
    assert {p: v.width for p, v in visits.items() if v.width != 390} == {}


def test_faults_of_a_page_are_seen(site, host, browser):
    bad = site / "bad.html"
    bad.write_text(
        '<img src="none.png"><link rel="stylesheet" href="http://fonts.invalid/x.css">'
        '<script>console.error("so"); throw Error("no")</script>'
    )
    try:
        browser.open(host + "bad.html")
        text = "\n".join(browser.faults(host))
    finally:
        bad.unlink()
    browser.open(host + "core.html")
    browser.shape(390)
    assert browser.js(WIDTH) == 390
    wide = 'document.querySelector("main").insertAdjacentHTML("beforeend", "<div style=width:700px>wide</div>");'
    assert browser.js(f"{wide} {WIDTH}") > 700
    for what in "none.png", "asks http://fonts.invalid", "'so'", "Error: no":
        assert what in text


def test_search_finds_the_dual_library(host, browser):
    browser.open(host + "world.html")
    browser.js("""(() => {
      const i = document.querySelector(".smalldocs-search input");
      i.value = "DualLibrary";
      i.dispatchEvent(new Event("input")) })()""")
    found = browser.wait(lambda: browser.js('[...document.querySelectorAll(".search-result")].map(a => a.href)'))
    assert any(h.startswith(host + "library.html") for h in found[:3]), found


PICTURES = """Promise.all([...document.querySelectorAll("main img")].map(i => i.decode().catch(() => 0).then(() => ({
  src: i.src.slice(0, 80),
  loaded: i.naturalWidth,
  seen: i.checkVisibility() && i.offsetWidth,
  alt: i.alt !== null && i.hasAttribute("alt") }))))"""


def test_pictures_are_seen(site, host, browser):
    seen, broken = 0, []
    for p in "index.html", "results.html", "world.html", "retrieval.html":
        browser.open(host + p)
        pictures = browser.js(PICTURES)
        broken += [(p, x["src"]) for x in pictures if not (x["loaded"] and x["seen"] and x["alt"])]
        seen += len(pictures)
    assert not broken and seen > 10


def test_the_sidebar_is_in_reading_order(host, browser):
    browser.open(host + "index.html")
    entries = 'document.querySelectorAll("#quarto-sidebar .sidebar-menu-container a[href]")'
    seen = browser.js(f"[...{entries}].filter(a => a.checkVisibility()).map(a => a.href)")
    links = [href.removeprefix(host) for href in seen]
    read = [module_of(s) + ".html" for s in notebooks(root) if is_stage(s)]
    guides = {s + ".html" for s in notebooks(root) if not is_stage(s)} - {"index.html"}
    assert links[: 1 + len(read)] == ["index.html", *read] and set(links[1 + len(read) :][: len(guides)]) == guides
    assert links[1 + len(read) + len(guides) :] == [
        "shell.html",
        "claims.html",
        "results.html",
        "cards.html",
        "times.html",
        "reliability.html",
        "glossary.html",
        "api.html",
    ]


def test_the_whole_sidebar_can_be_reached_on_a_phone(host, browser):
    browser.open(host + "world.html")
    browser.shape(390)

    def at():
        return browser.js("""(() => {
          const r = [...document.querySelectorAll("#quarto-sidebar a[href]")].at(-1);
          r.scrollIntoView();
          const b = r.getBoundingClientRect();
          return [b.left, b.bottom] })()""")

    browser.wait(lambda: at()[0] < 0, 10)  # put away
    browser.js('document.querySelector(".quarto-btn-toggle").click()')
    browser.wait(lambda: at()[0] >= 0, 10)
    assert at()[1] <= 900


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(site, host, browser, visits, scheme):
    low = {}
    for p in filter(has_colours_of_its_own, pages_of(site)):
        if scheme == "dark":
            browser.open(host + p, scheme=scheme)
        ground, found = browser.js(CONTRAST) if scheme == "dark" else visits[p].contrast
        assert (sum(ground) > 600) == (scheme == "light"), f"{p} is not {scheme}"
        if found:
            low[p] = found
    assert not low


def test_the_switch_turns_dark_and_stays(host, browser):
    def dark():
        return browser.js("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"

    browser.open(host + "index.html")
    assert not dark()
    browser.js('document.querySelector(".quarto-color-scheme-toggle").click()')
    browser.wait(dark, 10)
    browser.open(host + "core.html")
    assert dark()
    browser.js("localStorage.clear()")


# ---- how it gets to readers


def test_the_workflow_runs_the_gate_and_publishes_what_make_docs_builds():
    flow = yaml.safe_load((root / ".github/workflows/gate.yml").read_text())
    gate, publish = flow["jobs"]["gate"], flow["jobs"]["publish"]
    assert {"push", "pull_request"} <= set(flow[True])  # YAML reads `on` as true
    assert (
        any(s.get("run") == ".ci/run" for s in gate["steps"])
        and publish["needs"] == "gate"
        and "refs/heads/main" in publish["if"]
    )
    assert any(s.get("run") == "make docs" for s in publish["steps"])
    steps = [*gate["steps"], *publish["steps"]]
    used = [s["uses"] for s in steps if "uses" in s]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+(\.\d+\.\d+)?", u) for u in used) and {
        u.split("@")[0] for u in used
    } >= {"actions/upload-pages-artifact", "actions/deploy-pages"}
