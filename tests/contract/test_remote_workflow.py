"""The workflow with a target on a board over a real sshd: the small model, built and measured for real."""

import contextlib
import json
import re
import shutil
import sys
import time
import venv

import jsonschema
import pytest
import torch
import yaml

import boards
import bundles
import fork_server
import forks
from model import zoo
from workflow import REPOSITORY, SNAKEMAKE, SNAKEMAKE7, Workflow, jobs_of

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(bool(boards.missing()), reason=f"no {boards.missing()}: `make board` brings them"),
]
RESULT = "results/LeViT-tiny.fp32.board.json"
OF_HOST = ["clean/LeViT-tiny.cpu.onnx", "accuracy/LeViT-tiny.torch.json", "data/LeViT-tiny.val.u8"]
OF_HOST = [f"results/digits/{name}" for name in OF_HOST]  # made outside its network, where servers of forks are
BENCHMARK = "results/digits/benchmark/LeViT-tiny.fp32.board.json"
SCHEMA = yaml.safe_load((REPOSITORY / "rules/schemas/result.schema.yaml").read_text())
MEASURED = ["assemble_result fp32.board", "benchmark fp32.board", "evaluate_engine accuracy.fp32.board"]


@pytest.fixture(scope="module")
def board():
    made = boards.made()
    yield made
    made.stop()


class Remote(Workflow):
    """A workflow with Snakemake in the client's network; a dry run asks no board and needs none."""

    def plan(self, *targets):
        outside = Workflow(self.folder)
        outside.variables = {name: value for name, value in self.variables.items() if name != fork_server.NETWORK}
        return outside.plan(*targets)


def of(board, folder):
    """Return a copied workflow's copy with Snakemake in the client's network."""
    workflow = Remote(folder)
    workflow.variables = {**board.variables, "LEVIT_PYTHON": sys.executable, "LEVIT_SNAKEMAKE_OUTPUT": "1"}
    return workflow


def row(config, name="board", **more):
    config["targets"][name] = {
        **config["targets"]["cpu"],
        "warmup_ms": 50,
        "duration_ms": 200,
        "iterations": 10,
        **more,
    }


@pytest.fixture(scope="module")
def built(board, tmp_path_factory):
    """A workflow that made the result on the board, and what it said."""
    folder = tmp_path_factory.mktemp("remote") / "base"
    Workflow.fresh(folder)
    workflow = of(board, folder)

    def quick(config):
        config["datasets"]["digits"]["weights"] = "w.pth"
        row(config, **board.row())
        small = config["models"]["LeViT-tiny"]
        torch.manual_seed(0)
        torch.save(zoo.create(small, 10).state_dict(), workflow.path("w.pth"))

    workflow.config(quick)
    assert "build_engine fp32.board" in workflow.plan(RESULT), "a dry run asks no board"
    assert not workflow.path(".cache/boards").exists()
    status, output = Workflow(folder).run("--quiet", "--", *OF_HOST, LEVIT_PYTHON=forks.working_python())
    assert status == 0, output
    status, output = workflow.run("--", RESULT)
    assert status == 0, output
    return workflow, output


@pytest.fixture
def workflow(built, board, tmp_path):
    built[0].copy(tmp_path / "copy")
    return of(board, tmp_path / "copy")


def without_benchmark(workflow):
    """Return a workflow whose result is to be timed again."""
    for path in (BENCHMARK, RESULT):
        workflow.path(path).unlink()
    return workflow


def sent(output):
    return [int(text.replace(",", "")) for text in re.findall(r"^board: sent ([\d,]+) bytes", output, re.MULTILINE)]


def test_the_result_is_measured_on_the_board(built, board):
    workflow, output = built
    result = json.loads(workflow.path(RESULT).read_text())
    jsonschema.validate(result, SCHEMA)
    assert result["accuracy"]["num_images"] == 360 and result["benchmark"][0]["throughput_qps"] > 0
    assert result["target_identity"]["runtime"] == "openvino"
    assert "board: recorded what it is; planning with that" in output
    assert output.count("layers") and len(sent(output)) == 4, "the board's log is shown"
    logs = list(workflow.path("results/logs/digits").glob("*.fp32.board.log"))
    assert len(logs) == 3 and all(path.read_text() for path in logs)
    assert not list(workflow.path("results").rglob("*.partial"))
    assert workflow.plan(RESULT) == []
    for path in workflow.path("results").rglob("*.*"):
        assert str(board.folder).encode() not in path.read_bytes(), f"{path} tells how the board is reached"


@pytest.mark.slow
def test_a_bundle_is_made_on_the_board(workflow, tmp_path):
    """Its clients and samples travel there, and the client here gives the logits that the board recorded."""
    name = "results/digits/bundles/LeViT-tiny.fp32.board.tar.gz"
    assert workflow.plan(name) == ["bundle fp32.board", "pick_samples"]
    status, output = workflow.run("--", name)
    assert status == 0 and len(sent(output)) == 1, output
    bundle = bundles.unpack(workflow.path(name), tmp_path / "unpacked")
    assert (bundle / "cpp/engine_openvino.cpp").exists() and not (bundle / "cpp/engine_tensorrt.cpp").exists()
    status, text, problems = bundles.alone(bundle, "selftest")
    assert (status, problems) == (0, "") and text.endswith("selftest passed\n")


def test_where_a_target_is_decides_nothing(workflow, board):
    others = {"ssh": "me@host"}, {"ssh": ["me@host", "you@host"]}
    for keys in ({"workdir": "elsewhere"}, {"python": "python3.8"}, *others, {"ssh_config": None}):
        workflow.config(lambda config, keys=keys: row(config, **{k: v for k, v in board.row(**keys).items() if v}))
        assert workflow.plan(RESULT) == [], keys
    shutil.rmtree(workflow.path(".cache/boards"))
    assert workflow.plan(RESULT) == [], "the identity is recorded with the results as well"
    workflow.config(lambda config: row(config))
    assert workflow.plan(RESULT) == [], "this machine is the same board"


def test_what_is_unchanged_is_not_sent_again(workflow):
    workflow.config(lambda config: config["targets"]["board"].update(iterations=11))
    assert workflow.plan(RESULT) == ["assemble_result fp32.board", "benchmark fp32.board"]
    status, output = workflow.run("--", RESULT)
    assert status == 0 and sent(output) == [0], output
    for path in [*workflow.path("results/digits/engines").iterdir(), workflow.path(RESULT)]:
        path.unlink()
    assert workflow.plan(RESULT) == sorted(["build_engine fp32.board", *MEASURED])
    status, output = workflow.run("--", RESULT, LEVIT_SNAKEMAKE_OUTPUT="")
    logs = [path.read_text() for path in workflow.path("results/logs/digits").glob("*.fp32.board.log")]
    assert status == 0 and sent("\n".join(logs)) == [0, 0, 0], output
    assert "fp32.board.engine: from the store in " in output and "layers" not in output, (
        "the board keeps finished builds"
    )


def test_kept_timings_stay_on_the_board_and_are_dropped_there_when_asked_for_again(workflow, board):
    """As retime.py asks: what lay under the timings' keys is gone, whether or not the new ones are stable."""
    folder = board.seen() / "benchmarks"
    entries = json.loads(workflow.path(BENCHMARK).read_text())["benchmark"]
    assert len({entry["timing_key"] for entry in entries}) == 2 and not workflow.path(".cache/benchmarks").exists()
    folder.mkdir(exist_ok=True)
    for entry in entries:
        (folder / f"{entry['timing_key']}.json").write_text("an old timing")
    status, output = workflow.run("--forcerun", BENCHMARK, "--", RESULT, LEVIT_RETIME=BENCHMARK)
    assert status == 0, output
    after = json.loads(workflow.path(BENCHMARK).read_text())["benchmark"]
    assert [entry["timing_key"] for entry in after] == [entry["timing_key"] for entry in entries]
    assert {entry["timed"] for entry in after} == {"new"}
    assert not [path for path in folder.iterdir() if path.read_text() == "an old timing"]
    assert len(list(folder.iterdir())) >= sum(entry["stable"] for entry in after)


def test_a_board_that_has_changed(workflow, board):
    """Another version of its runtime is seen when a run starts, and makes stale what it must."""
    recorded = workflow.path(".cache/boards/board.json")
    recorded.write_text(recorded.read_text().replace('"version": "', '"version": "0.'))
    status, output = without_benchmark(workflow).run("--", RESULT)
    assert status == 0 and "board: recorded what it is" in output, output
    assert jobs_of(output.split("planning with that")[1]) == ["assemble_result fp32.board", "benchmark fp32.board"]
    assert workflow.plan(RESULT) == []


def refused(workflow, *requests):
    """Return the lines of a refusal before any job."""
    status, output = workflow.run("--", *requests)
    assert status == 1 and "Traceback" not in output and "\nrule " not in output, output
    return [line for line in output.splitlines() if line.startswith("error: ")]


def test_preflight_names_each_board_with_the_remedy(workflow, board, tmp_path):
    lonely, changed = (board.folder / name for name in ("lonely", "changed"))
    lonely.write_text(board.config.read_text().replace(f"Port {board.port}", "Port 1"))
    keys = board.folder / "other_hosts"
    keys.write_text(f"[{board.address}]:{board.port} {(board.folder / 'client_key.pub').read_text()}")
    changed.write_text(board.config.read_text().replace("/known_hosts", "/other_hosts"))
    unknown = board.folder / "unknown"
    unknown.write_text(board.config.read_text().replace("/known_hosts", "/no_hosts"))
    strange = board.folder / "strange"
    strange.write_text(board.config.read_text().replace("client_key", "host_key"))
    venv.create(tmp_path / "bare", with_pip=False)
    bare = str(tmp_path / "bare/bin/python")
    rows = {
        "lonely": ({"ssh_config": str(lonely)}, "Connection refused: is it on, and does `ssh board` reach it?"),
        "changed": ({"ssh_config": str(changed)}, "its host key has changed, so nothing was sent"),
        "unknown": ({"ssh_config": str(unknown)}, "its host key is not known: connect once by hand"),
        "strange": ({"ssh_config": str(strange)}, "no key is accepted: ssh-copy-id board"),
        "nowhere": ({"ssh": "no-such-host.invalid"}, "no such host: "),
        "without": ({"python": "/no/such/python"}, "/no/such/python does not run there: "),
        "bare": ({"python": bare}, f"openvino is not installed in {bare}"),
        "arm": ({"architecture": "aarch64"}, "architecture is x86_64 here, and the target's is aarch64"),
        "readonly": ({"workdir": "/proc/none"}, "/proc/none"),
    }

    def add(config):
        for name, (keys, _) in rows.items():
            row(config, name, **board.row(**keys))

    workflow.config(add)
    requests = [f"results/LeViT-tiny.fp32.{name}.json" for name in rows]
    assert workflow.plan(*requests)
    lines = refused(workflow, *requests)
    assert len(lines) == len(rows)
    for name, (_, said) in rows.items():
        assert any(f"engines of the target {name}: " in line and said in line for line in lines), (name, lines)


def test_a_board_without_rsync(workflow, board):
    program = board.folder / "bin/rsync"
    away = program.rename(board.folder / "rsync-away")
    try:
        without_benchmark(workflow)
        hint = "rsync is not installed there: sudo apt-get install rsync"
        if shutil.which("rsync", path="/usr/bin:/bin"):
            pytest.skip("this machine has an rsync of its own")
        assert refused(workflow, RESULT) == [f"error: board cannot run engines of the target board: {hint}"]
    finally:
        away.rename(program)


@pytest.mark.slow  # test_remote.py has two hosts at once on one board
def test_two_workflows_at_once_on_one_board(built, board, tmp_path):
    copies = []
    for name in ("one", "two"):
        built[0].copy(tmp_path / name)
        copies.append(without_benchmark(of(board, tmp_path / name)))
    running = [copy.start("--", RESULT) for copy in copies]
    for copy, process in zip(copies, running):
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert json.loads(copy.path(RESULT).read_text())["benchmark"] and sent(output) == [0]


def test_boards_in_parallel_and_jobs_of_one_in_turn(workflow, board):
    if not boards.isolated():
        pytest.skip("two boards are two networks")
    second = boards.made(beside=board)
    try:

        def add(config):
            for name, at in (("first", board), ("same", board), ("other", second)):
                row(config, name, **at.row(), duration_ms=400, batches=[1])

        workflow.config(add)
        requests = [f"results/digits/benchmark/LeViT-tiny.fp32.{name}.json" for name in ("first", "same", "other")]
        process, most, both = workflow.start("--cores", "2", "--", *requests), 0, False
        while process.poll() is None:
            running = [at_work(at) for at in (board, second)]
            most, both = max(most, *running), both or all(running)
            time.sleep(0.02)
        assert process.returncode == 0, process.stdout.read()
        assert most == 1 and both
    finally:
        second.stop()


def test_results_of_several_boards_under_one_target(built, tmp_path):
    """One core runs jobs on both boards, an engine is timed on one of them, and one that is down is named."""
    if not boards.isolated():
        pytest.skip("boards have machine ids of their own in namespaces alone")
    built[0].copy(tmp_path / "copy")
    pair = boards.Rack(2)
    try:
        workflow = of(pair.boards[0], tmp_path / "copy")
        names = ["LeViT-tiny.fp32.pair", "LeViT-tiny.again.pair"]

        def add(config):
            config["precisions"]["again"] = config["precisions"]["fp32"]
            row(config, "pair", **pair.row(), batches=[1])

        workflow.config(add)
        process, both = workflow.start("--cores", "1", "--", *(f"results/{name}.json" for name in names)), False
        while process.poll() is None:
            both = both or all(map(at_work, pair.boards))
            time.sleep(0.02)
        output = process.stdout.read()
        assert process.returncode == 0 and both, output
        results = [json.loads(workflow.path(f"results/{name}.json").read_text()) for name in names]
        for one in results:
            jsonschema.validate(one, SCHEMA)
        built_on, timed_on = (
            [r["engine"]["machine"] for r in results],
            [r["benchmark"][0]["machine"] for r in results],
        )
        assert len(set(built_on)) == 2 and len(set(timed_on)) == 1, "one of the engines was built on another board"
        for path in workflow.path("results").rglob("*.*"):
            assert not re.search(rb"board2|rack_config|/tmp/levit-", path.read_bytes()), f"{path} tells of an address"
        pair.boards[1].lose_power()
        shutil.rmtree(workflow.path(".cache/boards"))
        for name in names:
            for folder in ("results", "results/digits/benchmark"):
                workflow.path(f"{folder}/{name}.json").unlink()
        status, output = workflow.run("--cores", "1", "--", *(f"results/{name}.json" for name in names))
        assert status == 0 and output.count("warning: pair board 2 (board2) is left out: ") == 1, output
        pair.boards[0].lose_power()
        workflow.path(f"results/{names[0]}.json").unlink()
        workflow.path(f"results/digits/benchmark/{names[0]}.json").unlink()
        lines = refused(workflow, f"results/{names[0]}.json")
        assert len(lines) == 2 and all("engines of the target pair: " in line for line in lines), lines
    finally:
        pair.stop()


def at_work(board):
    with contextlib.suppress(OSError):
        return len(list((board.seen() / "jobs").glob("*/running")))
    return 0


def test_snakemake_7_plans_the_same(built, board, tmp_path):
    if not SNAKEMAKE7.exists():
        pytest.skip(f"{SNAKEMAKE7} is not there: `make test` makes it")
    fresh = [
        Workflow.fresh(tmp_path / name, snakemake=program) for name, program in (("9", SNAKEMAKE), ("7", SNAKEMAKE7))
    ]
    for workflow in fresh:
        workflow.config(lambda config: row(config, **board.row()))
    nine, seven = (workflow.plan(RESULT) for workflow in fresh)
    assert nine == seven != []
