"""Every command and path that the documents name works: as a dry run, as `make -n`, by its --help, as a file."""

import os
import re
import subprocess
import sys

import pytest

import contributing
from workflow import ON_BOTH, REPOSITORY, SNAKEMAKE, SNAKEMAKE7, SNAKEMAKES, Workflow

GUIDES = [REPOSITORY / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
PAGES = [*GUIDES, *sorted((REPOSITORY / "docs").glob("*.md"))]
INLINE = re.compile(r"`([^`\n]*)`")
PROMPT = re.compile(r"^(?:here|there|[$])\s+")  # before a command in a block
KINDS = {"snakemake": r"^snakemake(?: |$)", "make": r"^make [a-z]", "script": r"^python3? (?:workflow_scripts|tests)/"}
ON_A_CLUSTER = "--profile profiles/slurm"  # its plugin is in an environment of its own: tests/cluster
ONLY_ON_9, ONLY_ON_7 = "--cores all", "--cores"  # README.md: 7.32 takes a bare --cores
FONTS = ".cache/fonts/usr/share/fonts"  # what `make fonts` fills; a dry run of glyphs asks only whether it is there
MADE = {"tests/gpu/graphs"}  # written by a command of the page itself
MINE = {"Mine": {"timm": "levit_128s", "size": 224}}  # the row that docs/own-model.md adds


def commands():
    """Yield (page, command) for each project command in a code block or in inline code."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^ {4,}(.*)$|^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        lines = [line for block in blocks for line in "\n".join(block).splitlines()]
        for line in [*lines, *INLINE.findall(text)]:
            command = PROMPT.sub("", line.split(" #")[0].strip())
            if any(re.match(pattern, command) for pattern in KINDS.values()) and "..." not in command:
                yield page.name, command


def of_kind(kind):
    return sorted({(page, command) for page, command in commands() if re.match(KINDS[kind], command)})


@pytest.fixture(scope="module", params=SNAKEMAKES)
def workflow(request, tmp_path_factory):
    if not request.param.exists():
        pytest.skip(f"{request.param} is not there: `make test` makes it")
    workflow = Workflow.fresh(tmp_path_factory.mktemp("documents") / "run", snakemake=request.param)
    workflow.config(lambda config: config["models"].update(MINE))
    contributing.follow(workflow)
    workflow.path(FONTS).mkdir(parents=True)
    return workflow


def dry(workflow, command):
    """Run a line of a shell with the workflow's Snakemake and Python first on the path; return (status, output)."""
    folders = [workflow.quick_snakemake(), workflow.snakemake.parent, os.path.dirname(sys.executable)]
    path = ":".join([*map(str, folders), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", f"{command} --dry-run"],
        cwd=workflow.folder,
        env=workflow.environment(PATH=path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_paths_that_are_named_exist():
    """Paths from the root, and Python files with their folder in workflow_scripts/."""
    rooted = re.compile(r"(?<![\w/.-])(?:workflow_scripts|rules|docs|tests|envs|profiles|plugins)/[\w./-]*\w")
    ours = re.compile(r"(?<![\w/.-])(?:[a-z_]+/)+\w+\.py\b")
    for page in [*PAGES, *(REPOSITORY / "docs/measurements").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        named = {*rooted.findall(text), *(f"workflow_scripts/{path}" for path in ours.findall(text))}
        named = {path for path in named if not re.match(r"workflow_scripts/(workflow_scripts|tests|docs)/", path)}
        assert [
            path for path in sorted(named - MADE) if "NAME" not in path and not (REPOSITORY / path).exists()
        ] == [], page.name


def test_there_are_commands_of_each_kind():
    assert len(of_kind("snakemake")) >= 12 and len(of_kind("make")) >= 3 and len(of_kind("script")) >= 3


def test_commands_of_snakemake(workflow):
    """Plain targets share a start; each line with options or a command in it has its own."""
    plain, failed = [], []
    pages = {command: page for page, command in of_kind("snakemake") if page != "tutorial.md"}  # that: test_site.py
    for command, page in pages.items():
        targets = [word for word in command.split()[1:] if word != "-n"]
        if targets and all(target.startswith(("results/", "everything")) and "$" not in target for target in targets):
            plain += targets
        elif command in ("snakemake", "snakemake --touch") or ON_A_CLUSTER in command:
            continue
        elif {ONLY_ON_9: SNAKEMAKE, f"snakemake {ONLY_ON_7}": SNAKEMAKE7}.get(
            ONLY_ON_9 if ONLY_ON_9 in command else command, workflow.snakemake
        ) == workflow.snakemake:
            status, output = dry(workflow, command)
            failed += [] if status == 0 else [f"{page}: {command}: {output[-300:]}"]
    status, output = dry(workflow, f"snakemake {' '.join(plain)}")
    assert status == 0, output[-1000:]
    assert failed == []


@pytest.mark.parametrize(("page", "command"), of_kind("make"), ids=lambda text: text.replace(" ", "_"))
def test_commands_of_make(page, command):
    words = command.split(" && ")[0].split()
    done = subprocess.run([words[0], "-n", *words[1:]], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "script", sorted({re.search(r"(?:workflow_scripts|tests)/\S+\.py", command)[0] for _, command in of_kind("script")})
)
def test_scripts_that_are_named(script):
    if script.startswith("tests/gpu/"):  # they do their work without asking, on a machine with a GPU
        assert (REPOSITORY / script).is_file()
        return
    named = [command.split(script, 1)[1].split()[:1] for _, command in of_kind("script") if script in command]
    done = subprocess.run([sys.executable, script, "--help"], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and "usage: " in done.stdout, done.stderr
    for word in {word for words in named for word in words if re.fullmatch("[a-z]+", word)}:
        assert word in done.stdout, f"{script} has no {word}"


@ON_BOTH("workflow")
def test_a_cache_without_a_version_is_refused_before_any_job(workflow):
    status, output = workflow.run("results/digits/calibration/LeViT-tiny.int8_qat.gpu.cache")
    last = output.strip().splitlines()[-1]
    assert status == 1 and last.startswith("error: a calibration cache for gpu names TensorRT's version"), output[-500:]
    assert not workflow.path("work.log").exists()
