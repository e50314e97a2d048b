"""The page in headless Chromium: no problem, no request; tables sort, batch sizes are chosen, files are whole.

`LEVIT_PICTURES=FOLDER` keeps the pictures of the three widths, to look at.
"""

import base64
import csv
import json
import os
from pathlib import Path

import pytest
from PIL import Image
from test_page import BISECT, CALIBRATION, LAYERS, PLAN, SEVERAL
from test_report import STEADY, choice, result

import chromium
from core import history
from reporting import page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not chromium.find(), reason="no Chromium: `make chromium` fetches Debian's"),
]
VISIBLE = "[...document.querySelectorAll('%s')].filter((one) => one.offsetParent)"
SOON = "new Promise((done) => setTimeout(done, 300))"
SIZES = {"telephone": (390, 844), "tablet": (820, 1180), "desk": (1280, 900)}


def results():
    """Return results of three targets, one of them with energy, and a choice."""
    orin = [result("fp16", 900.0, target="orin"), result("fp32", 300.0, target="orin")]
    for entry in [entry for one in orin for entry in one["benchmark"]]:
        entry["energy_mj_per_image"] = 12.3
    turns = choice({"fp32": [1.08 * ms for ms in STEADY[::-1]], "int8_qat": STEADY})
    one = {"images_per_second": 9.0, "top1": 98.0, "lost": 1.0, "within_budget": True, "stable": True, "batch": 1}
    candidates = [
        {**one, "precision": "fp32", "verdict": "slow"},
        {**one, "precision": "int8_qat", "verdict": "chosen: x"},
    ]
    return [*SEVERAL, *orin, {**turns, "candidates": candidates, "chosen_batch": 1, "objective": "latency"}]


def evidence(own):
    """Return {kind: {path: content}} of everything that a page shows besides results."""
    old, new = result("fp32", 300.0), result("fp32", 400.0)
    entries = [history.entry(old, "2026-10-01T00:00:00Z"), history.entry(new, "2026-11-01T00:00:00Z")]
    profile = {"engine_sha256": own["engine"]["sha256"], "profile": [{"batch": 1, "total_ms": 0.4, "layers": LAYERS}]}
    svg = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 9 9'><rect width='9' height='9'/></svg>"
    digits, name = "results/digits", "LeViT-128S.int8_qat"
    return {
        "histories": {"results/history/LeViT-128S.fp32.cpu.json": {"entries": entries}},
        "plans": {f"{digits}/plans/{name}.json": PLAN},
        "bisects": {f"{digits}/bisect/{name}.cpu.json": BISECT},
        "descriptions": {f"{digits}/engines/LeViT-128S.fp32.cpu.json": {"layers": LAYERS}},
        "profiles": {f"{digits}/profile/{name}.cpu.json": profile},
        "timelines": {f"{digits}/timeline/{name}.cpu.svg": svg},
        "calibrations": {f"{digits}/calibration/{name}.json": CALIBRATION},
        "pictures": {f"{digits}/dla/LeViT-128S.int8_dla.orin.svg": svg},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with results, everything behind them, and their page."""
    folder, before = tmp_path_factory.mktemp("page"), Path.cwd()
    found, paths = results(), {}
    files = {f"results/{r['model']}.{r['precision']}.{r['target']}.json": r for r in found}
    more = evidence(found[0])
    more_files = {path: content for kind in more.values() for path, content in kind.items()}
    for path, content in {**files, **more_files, "results/digits/dla/LeViT-128S.int8_dla.orin.json": {}}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content if isinstance(content, str) else json.dumps(content))
    paths = {kind: list(kind_files) for kind, kind_files in more.items()}
    os.chdir(folder)
    try:
        (folder / "results/report.html").write_text(page.render(list(files), {}, **paths))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.tab(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(browser, folder):
    return browser.open((folder / "results/report.html").as_uri())


@pytest.mark.parametrize("dark", [False, True], ids=("light", "dark"))
@pytest.mark.parametrize("size", SIZES)
def test_a_page_is_readable_and_asks_for_nothing(browser, folder, tmp_path, size, dark):
    width, height = SIZES[size]
    tab = browser.open((folder / "results/report.html").as_uri(), width, height, dark)
    assert tab.problems == []
    assert [url for url in tab.requests[1:] if not url.startswith("data:")] == [] and tab.requests[0].startswith(
        "file:"
    )
    assert tab.run("document.documentElement.scrollWidth") <= width, "nothing scrolls sideways"
    assert tab.run(f"{VISIBLE % '.wide'}.filter((one) => one.scrollWidth > one.clientWidth).length") == 0
    letters = (
        "([...document.querySelectorAll('body *:not(svg *)')].map((one) => parseFloat(getComputedStyle(one).fontSize)))"
    )
    assert tab.run(f"Math.min(...{letters})") >= 11.5, "letters that can be read"
    seen = VISIBLE % ".wide-chart, .narrow-chart" + ".map((one) => one.className)"
    assert set(tab.run(seen)) == {"narrow-chart" if size == "telephone" else "wide-chart"}
    target = Path(os.environ.get("LEVIT_PICTURES") or tmp_path) / f"{size}-{'dark' if dark else 'light'}.png"
    tab.picture(target)
    colors = Image.open(target).convert("RGB").getcolors(1 << 24)
    paper = max(colors)[1]
    assert len(colors) > 50 and (sum(paper) < 120 if dark else sum(paper) > 700)


CONTRASTS = """(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const part = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * part(r / 255) + 0.7152 * part(g / 255) + 0.0722 * part(b / 255);
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const color = parse(getComputedStyle(one).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
  };
  const low = {};
  for (const one of document.querySelectorAll("body *:not(script):not(svg *)")) {
    const isText = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!isText || !one.offsetParent) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low[`${one.tagName}.${one.className}`] = ratio.toFixed(2);
  }
  return low;
})()"""


@pytest.mark.parametrize("dark", [False, True], ids=("light", "dark"))
def test_letters_stand_out(browser, folder, dark):
    """WCAG 2.2 AA asks for a contrast of 4.5."""
    assert browser.open((folder / "results/report.html").as_uri(), dark=dark).run(CONTRASTS) == {}


SORTED = "[...document.querySelectorAll('#engines-table [aria-sort]')].map((one) => one.ariaSort)"
COLUMN = """[...document.querySelectorAll("#engines-table tbody tr")].filter((row) => !row.hidden)
  .map((row) => [row.cells[0].innerText, row.cells[%d].innerText.split("\\n")[0]])"""


def heading(tab, name):
    names = tab.run("[...document.querySelectorAll('#engines-table thead th')].map((one) => one.innerText)")
    return [one.split("\n")[0].replace(" ▲", "").replace(" ▼", "") for one in names].index(name)


def test_a_table_sorts_by_a_click_and_by_the_keyboard(tab):
    speed = heading(tab, "images/s")
    button = f"document.querySelectorAll('#engines-table thead button')[{speed}]"
    tab.run(f"{button}.click()")
    rising = [float(value.replace(",", "")) for _, value in tab.run(COLUMN % speed)]
    assert rising == sorted(rising) and len(set(rising)) > 3
    assert tab.run(f"{button}.parentElement.getAttribute('aria-sort')") == "ascending"
    tab.run(f"{button}.focus()")
    tab.press("Enter", 13)
    assert [float(value.replace(",", "")) for _, value in tab.run(COLUMN % speed)] == rising[::-1]
    assert tab.run("[...document.querySelectorAll('#engines-table [aria-sort]')].map((one) => one.ariaSort)") == [
        "descending"
    ]
    energy = heading(tab, "mJ an image")
    for _ in range(2):
        tab.run(f"document.querySelectorAll('#engines-table thead button')[{energy}].click()")
        assert [value for _, value in tab.run(COLUMN % energy)][-5:] == [""] * 5, "what has no value stays last"
    name = heading(tab, "engine")
    tab.run(f"document.querySelectorAll('#engines-table thead button')[{name}].click()")
    names = [value for value, _ in tab.run(COLUMN % speed)]
    assert names == sorted(names)


def test_a_batch_size_is_chosen_for_tables_and_charts(tab):
    batch = heading(tab, "batch")
    assert {value for _, value in tab.run(COLUMN % batch)} == {"16", "1"}, "auto has chosen 1, others are best at 16"
    tab.run("document.querySelector('input[value=\"1\"]').click()")
    rows = tab.run(COLUMN % batch)
    assert {value for _, value in rows} == {"1"} and len(rows) == 7, "a row an engine"
    titles = tab.run(VISIBLE % "figure[data-batch]" + ".map((one) => one.innerText)")
    assert len(titles) == 3 and all("at batch 1" in title for title in titles)


def test_links_resolve(tab, folder):
    links = tab.run("[...document.querySelectorAll('a[href]')].map((one) => one.getAttribute('href'))")
    assert len(links) > 10
    for link in links:
        if link.startswith("#"):
            assert tab.run(f"document.getElementById('{link[1:]}') !== null")
        else:
            assert (folder / "results" / link).is_file(), link


def test_downloads_are_whole(tab, folder, tmp_path):
    tab.ask("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for kind in ("csv", "json"):
        tab.run(f"document.querySelector('[data-download={kind}]').click()")
        for _ in range(100):
            tab.run(SOON)
            if (tmp_path / f"results.{kind}").exists():
                break
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert len(rows) == 14 and {row["target"] for row in rows} == {"cpu", "orin"}
    written = json.loads((tmp_path / "results.json").read_text())
    assert len(written["results"]) == 7 and len(written["runs"]) == 2


COMPARED = (
    "[...document.querySelectorAll('#compared tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
)


def test_two_results_are_compared(tab, folder, tmp_path):
    facts = {line[0]: line[1:] for line in tab.run(COMPARED)}
    assert facts["images/s at batch 1"] == ["400", "300", "33.3 %"] and facts["engine"][2] == "same"
    assert facts["top-1 %"][2] == "0.00 points"
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"runs": [{"name": "x", "facts": [["images/s at batch 1", "800.0", 800.0]]}]}))
    root = tab.ask("DOM.getDocument")["root"]["nodeId"]
    node = tab.ask("DOM.querySelector", nodeId=root, selector="#more")["nodeId"]
    tab.ask("DOM.setFileInputFiles", nodeId=node, files=[str(other)])
    tab.run(SOON)
    assert tab.run("document.getElementById('other').options.length") == 3
    tab.run("document.getElementById('other').value = '2'")
    tab.run("document.getElementById('other').dispatchEvent(new Event('change', {bubbles: true}))")
    facts = {line[0]: line[1:] for line in tab.run(COMPARED)}
    assert facts["images/s at batch 1"] == ["400", "800.0", "-50.0 %"] and facts["engine"][1] == "none"
    bad = tmp_path / "bad.json"
    bad.write_text("no")
    tab.ask("DOM.setFileInputFiles", nodeId=node, files=[str(bad)])
    tab.run(SOON)
    assert "bad.json is not the JSON of such a page" in tab.run("document.getElementById('compared-caption').innerText")
    assert tab.problems == []


def test_a_screen_reader_is_told_names(tab):
    nodes = tab.ask("Accessibility.getFullAXTree")["nodes"]
    named = {}
    for node in nodes:
        if not node.get("ignored"):
            named.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in (
        "table",
        "button",
        "link",
        "heading",
        "radio",
        "combobox",
        "image",
        "columnheader",
        "rowheader",
        "region",
    ):
        assert named.get(role) and all(name.strip() for name in named[role]), role
    assert tab.run("[...document.querySelectorAll('th')].every((one) => one.scope)")
    assert tab.run("[...document.querySelectorAll('table')].every((one) => one.caption)")
    levels = tab.run("[...document.querySelectorAll('h1, h2, h3')].map((one) => Number(one.tagName[1]))")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:]))


def test_what_audits_of_pages_ask(browser, folder):
    """The rules of Lighthouse that are not tested above, on a telephone."""
    tab = browser.open((folder / "results/report.html").as_uri(), *SIZES["telephone"])
    assert tab.run("document.documentElement.lang") == "en" and tab.run("document.title")
    assert tab.run("document.querySelectorAll('main').length") == 1
    assert "width=device-width" in tab.run("document.querySelector('meta[name=viewport]').content")
    ids = tab.run("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    for selector, fault in (
        ("[tabindex]", "one.tabIndex > 0"),
        ("img", "!one.alt"),
        ("input, select", "!one.labels.length"),
        ("a[href], button", "!one.textContent.trim()"),
        ("button, select, summary", "one.offsetParent && one.offsetHeight < 24"),
        ("svg", "!one.closest('[aria-label]')"),
    ):
        assert tab.run(f"[...document.querySelectorAll('{selector}')].filter((one) => {fault}).length") == 0, selector


def test_the_keyboard_reaches_everything_and_shows_where_it_is(tab):
    reached = []
    for _ in range(40):
        tab.press("Tab", 9)
        reached.append(
            tab.run("[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]")
        )
    assert reached[0] == ["A", "solid"] and {"INPUT", "BUTTON", "DIV"} <= {name for name, _ in reached}
    assert all(style != "none" for name, style in reached if name != "BODY"), reached


def test_a_mark_of_a_chart_says_what_it_stands_for(tab):
    box = "document.querySelector('.wide-chart [aria-roledescription=point]').getBoundingClientRect()"
    x, y = tab.run(f"[{box}.x + {box}.width / 2, {box}.y + {box}.height / 2]")
    tab.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert "images/s at batch 16" in tab.run("document.getElementById('hint').innerText")


def test_a_print_is_a4_without_what_paper_cannot_do(tab, tmp_path):
    tab.pdf(tmp_path / "page.pdf")
    printed = (tmp_path / "page.pdf").read_bytes()
    assert printed.startswith(b"%PDF") and b"/MediaBox [0 0 594" in printed
    tab.ask("Emulation.setEmulatedMedia", media="print")
    assert tab.run("[...document.querySelectorAll('.screen')].every((one) => getComputedStyle(one).display === 'none')")
    tab.ask("Emulation.setEmulatedMedia", media="")


def test_a_page_of_nothing_opens(browser, tmp_path):
    (tmp_path / "report.html").write_text(page.render([], {}))
    tab = browser.open((tmp_path / "report.html").as_uri())
    assert tab.problems == [] and "No result has been measured yet" in tab.run("document.body.innerText")


def test_the_page_in_snakemakes_report_has_no_dead_links(folder, tab):
    """There it is a data: URL, from which no link leads to another file."""
    page_there = base64.b64encode((folder / "results/report.html").read_bytes()).decode()
    tab.open(f"data:text/html;charset=utf8;base64,{page_there}")
    assert tab.problems == [] and tab.run("document.querySelectorAll('tbody tr').length") > 4
    assert (
        tab.run("[...document.querySelectorAll('a[href]')].filter((a) => a.getAttribute('href')[0] !== '#').length")
        == 0
    )
