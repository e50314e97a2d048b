"""Every command line answers what is not an input of it in one line, and leaves nothing half written."""

import concurrent.futures

import pytest

import forks
from core.sources import ROOT
from fuzz import tools
from workflow import Workflow

FAST = ["object"]  # kinds of each command; the others are for `make check`
ANSWERS = {  # commands that may end well: nothing that they are given is an input
    "run_trtexec.py": "trtexec is not installed here",
    "probe.py": "",
    "bisect_precision.py": "trtexec is not installed here",
}
SLOW = ["empty", "binary", "text", "list", "number", "null", "half JSON", "deep JSON", "not UTF-8", "NaN", "zip"]
SLOW += ["array", "older result", "folder", "missing"]


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    return Workflow.fresh(tmp_path_factory.mktemp("tools") / "run")


@pytest.fixture(scope="module")
def planned(workflow):
    return tools.commands(workflow.folder)


def test_every_command_of_a_rule_is_tried(planned):
    commands = {path.name for path in ROOT.glob("*.py") if "command().run(" in path.read_text(encoding="utf-8")}
    assert commands <= set(planned), "add what needs it to REQUESTS in tests/fuzz/tools.py"


def problems(workflow, jobs):
    """Run (script, arguments, output) on two cores; return the answers that are wrong."""

    def one(job):
        script, arguments, output = job
        status, stderr = tools.run(script, arguments, workflow.folder, python=forks.working_python())
        if status == 0 and script in ANSWERS and ANSWERS[script] in stderr:
            return None
        wrong = tools.verdict(status, stderr, output)
        return wrong and f"{script} {' '.join(arguments)[:200]}: {wrong}: {stderr[-300:]}"

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(filter(None, pool.map(one, jobs)))


@pytest.mark.parametrize("kind", [*FAST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_a_bad_input_is_one_line(workflow, planned, tmp_path, kind):
    path, jobs = tools.bad_files(tmp_path / "bad")[kind], []
    for script, arguments in sorted(planned.items()):
        if tools.files_of(script)[0]:
            output = tmp_path / script
            output.mkdir()
            jobs.append((script, tools.with_inputs(script, arguments, path, output), output))
    for number, (script, arguments) in enumerate(tools.TOOLS):
        output = tmp_path / f"{number}"
        output.mkdir()
        if (script, kind) != ("store.py", "folder"):
            jobs.append((script, [str(path) if word == "BAD" else word for word in arguments], output))
    assert problems(workflow, jobs) == []


@pytest.mark.parametrize("flag", ["--summary", "--log"])
@pytest.mark.parametrize("place", ["a folder", "below a file"])
def test_an_output_that_cannot_be_written_is_one_line(tmp_path, flag, place):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    path = {"a folder": tmp_path / "folder", "below a file": tmp_path / "file/x"}[place]
    arguments = {"--summary": tmp_path / "summary.tsv", "--log": tmp_path / "log", flag: path}
    words = [f"{name}={value}" for name, value in arguments.items()]
    status, stderr = tools.run("summarize.py", words, tmp_path)
    assert status == 1 and "Traceback" not in stderr and stderr.startswith("error: ") and stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.partial"))
