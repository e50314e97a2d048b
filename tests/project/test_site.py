"""The documentation: a strict build, links, a complete reference, messages of the code, a tutorial that works."""

import functools
import json
import re
import subprocess
import sys
import threading
import tomllib
import types
import urllib.error
import urllib.request
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from PIL import Image

import chromium
from configuration import checks
from reporting.result_file import VERSION
from workflow import REPOSITORY, SNAKEMAKE, Workflow

DOCS = REPOSITORY / "docs"
ZENSICAL = REPOSITORY / ".venv-docs/bin/zensical"
SCHEMAS = sorted((REPOSITORY / "rules/schemas").glob("*.schema.yaml"))
PAGES = sorted(DOCS.glob("*.md"))
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The folder that `make docs` builds from."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, DOCS / "gather.py", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def site(sources):
    if not ZENSICAL.exists():
        pytest.skip(f"{ZENSICAL} is not there: `make test` makes it")
    done = subprocess.run([ZENSICAL, "build", "--strict", "--clean"], cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0 and "No issues found" in done.stdout + done.stderr, done.stdout + done.stderr
    return sources / "site"


class References(HTMLParser):
    """The anchors of a page, its links, and what a browser loads with it."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loaded = {""}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given.get("id"), given.get("name")}
        address = given.get("href") or given.get("src")
        if address:
            (self.links if tag == "a" else self.loaded).append(address)


def test_links_resolve_and_nothing_is_loaded_from_elsewhere(site):
    pages = {path: References(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > 30
    for path, page in pages.items():
        for address in [*page.links, *page.loaded]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                assert address in page.links or address.startswith("data:"), f"{path.name} loads {address}"
            elif path.name != "404.html":  # whose links are from the root
                target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
                assert target.exists(), f"{path.name}: {address}"
                assert target not in pages or parts.fragment in pages[target].anchors, f"{path.name}: {address}"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.slow
@pytest.mark.skipif(not chromium.find(), reason="no Chromium: `make chromium` fetches Debian's")
def test_the_search_finds_pages_and_asks_no_other_server(site, tmp_path):
    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, chromium.tab(tmp_path) as tab:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        tab.open(f"{url}index.html").run(
            "document.querySelector('[class*=search] button, button[class*=search]').click()"
        )
        found = "new Promise((done) => setTimeout(() => done(document.body.innerText.includes('%s')), 200))"
        tab.ask("Input.insertText", text="serve")
        assert any(tab.run(found % "Serve an engine over HTTP") and tab.run(found % " results") for _ in range(50))
        server.shutdown()
    assert tab.problems == [] and [one for one in tab.requests if not one.startswith((url, "data:", "blob:"))] == []


def entries(nav):
    """Yield the pages of a navigation."""
    for entry in nav:
        for value in entry.values():
            yield from [value] if isinstance(value, str) else entries(value)


def test_the_navigation_has_each_page_once(sources):
    nav = list(entries(tomllib.loads((DOCS / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))
    written = {str(path.relative_to(sources / "docs")) for path in (sources / "docs").rglob("*.md")}
    assert sorted(nav) == sorted(written)


def test_the_reference_is_complete(sources):
    for path in SCHEMAS:
        page = (sources / f"docs/reference/{path.name.split('.')[0]}.md").read_text(encoding="utf-8")
        text = path.read_text(encoding="utf-8")
        shared = yaml.safe_load(text).get("$defs", {})
        for name in re.findall(r"^ +(\w+):\n +description:", text, re.MULTILINE):
            if name not in shared:
                assert re.search(rf"^\| `[^`]*\b{name}` \|", page, re.MULTILINE), f"{path.name}: {name}"
    commands = (sources / "docs/reference/commands.md").read_text(encoding="utf-8")
    for script in (REPOSITORY / "workflow_scripts").glob("*.py"):
        assert f"### {script.name}\n" in commands
    assert commands.count("usage: ") >= commands.count("\n### ") - 1, "probe.py alone has no options"
    artifacts = (sources / "docs/reference/artifacts.md").read_text(encoding="utf-8")
    for path in (REPOSITORY / "rules").glob("*.smk"):
        for rule in re.findall(r"^(?:use )?rule (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"| `{rule}` | `results/" in artifacts or rule in ("all", "everything"), rule


def test_links_of_the_root_exist():
    for page in REPOSITORY.glob("*.md"):
        for address in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (REPOSITORY / address).exists(), f"{page.name}: {address}"


def test_schemas_are_identified():
    identities = [yaml.safe_load(path.read_text(encoding="utf-8"))["$id"] for path in SCHEMAS]
    assert all(re.fullmatch(r"urn:levit-tensorrt:\w+:\d+", identity) for identity in identities), identities
    assert f"urn:levit-tensorrt:result:{VERSION}" in identities
    first = (REPOSITORY / "config.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert (REPOSITORY / re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)[1]).exists()


def test_messages_of_troubleshooting_are_those_of_the_code():
    code = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "workflow_scripts").rglob("*.py"))
    headings = re.findall(r"^### .*$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    messages = [message for heading in headings for message in re.findall(r"`([^`]+)`", heading)]
    assert len(messages) > 20
    for message in messages:
        for part in filter(None, message.split("...")):
            assert part.strip(" :,()") in code, f"no message has {part!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_rows_of_a_page_are_valid(page):
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    schema = yaml.safe_load((REPOSITORY / "rules/schemas/config.schema.yaml").read_text(encoding="utf-8"))
    for block in blocks:
        config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
        checks.checked(with_rows(config, yaml.safe_load(block)), schema)


def with_rows(config, rows):
    """Return a configuration with the keys of a page's block, whose rows may have a part of their keys alone."""
    both = {key for key, value in rows.items() if isinstance(value, dict) and isinstance(config.get(key), dict)}
    return {**config, **rows, **{key: with_rows(config[key], rows[key]) for key in both}}


def test_the_tutorials_requests_are_planned(tmp_path):
    workflow = Workflow.fresh(tmp_path / "run", snakemake=SNAKEMAKE)
    rows = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)[1])

    def add(config):
        for table in ("datasets", "precisions"):
            config[table].update(rows[table])
        return {**config, "dataset": rows["dataset"], "results": rows["results"]}

    workflow.config(add)
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        workflow.path(f"photos/{name}").mkdir(parents=True)
        for number in range(60):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(workflow.path(f"photos/{name}/{number}.png"))
    commands = re.findall(r"^    snakemake (.*)$", TUTORIAL, re.MULTILINE)
    status, output = workflow.run("-n", *dict.fromkeys(" ".join(commands).replace("-n ", "").split()))
    assert len(commands) > 1 and status == 0, output[-1000:]


def test_the_service_answers():
    """docs/serving.md's program, with a stand-in for a bundle's client."""
    program = re.search(r"^```python\n(.*?)^```", (DOCS / "serving.md").read_text(), re.MULTILINE | re.DOTALL)[1]

    class Client:
        def classify(self, images):
            if images != [b"image"]:
                raise ValueError("not an image")
            return [[{"class": "cat", "probability": 1.0}]]

    module, scope = types.ModuleType("classify"), {"__name__": "serve"}
    module.classifier = Client
    sys.modules["classify"] = module
    try:
        exec(program, scope)
    finally:
        del sys.modules["classify"]
    with ThreadingHTTPServer(("localhost", 0), scope["Handler"]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://localhost:{server.server_port}"
        with urllib.request.urlopen(address, b"image") as answer:
            assert json.load(answer) == [{"class": "cat", "probability": 1.0}]
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address, b"text")
        assert json.load(refused.value) == {"error": "not an image"}
        server.shutdown()
