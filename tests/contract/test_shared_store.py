"""Two machines share finished work through a bucket, and a run does without a bucket that is away."""

import os
import re
import signal
import time

import pytest
from test_bucket import gone

import forks
import s3_server
from core import tiers
from core.files import UserError
from snakefile import run_checks
from workflow import Workflow

CHECKPOINT = "results/digits/checkpoints/LeViT-tiny.pth"
TRAINING = [f"train {CHECKPOINT.replace('results/', '')}"]
AT = "s3://runs/levit"


@pytest.fixture(scope="module")
def server():
    server = s3_server.start()
    yield server
    server.stop()


@pytest.fixture
def variables(server, monkeypatch):
    """The environment of runs; the bucket is there, and this process sees it too."""
    found = s3_server.variables(server.get_host_and_port())
    s3_server.client(found, monkeypatch).create_bucket(Bucket="runs")
    return {**found, "PYTHONPATH": str(s3_server.PACKAGES)}


@pytest.fixture
def machine(tmp_path, variables):
    """Return a function: a machine by its name, whose runs use the bucket, below a prefix of this test."""

    def fresh(name):
        workflow = Workflow.fresh(tmp_path / name)
        workflow.config(lambda config: config.update(store=f"{AT}/{tmp_path.name}"))
        workflow.variables.update(variables)
        return workflow

    return fresh


def stored(tmp_path):
    store = tiers.at(f"{AT}/{tmp_path.name}")
    return sorted(store.content(entry.key) for entry in store.entries())


def test_what_one_machine_made_another_takes(machine, tmp_path):
    one, other = machine("one"), machine("other")
    assert one.build(CHECKPOINT) == TRAINING
    assert stored(tmp_path) == ["train"]
    assert other.build(CHECKPOINT) == [] and other.path(CHECKPOINT).read_bytes() == one.path(CHECKPOINT).read_bytes()
    assert not list(other.path(".cache/store").glob(".pending/*")), "what came from there is not sent back"


@pytest.mark.slow
def test_a_run_says_once_that_its_bucket_is_away_and_the_next_one_uploads(machine, tmp_path):
    one = machine("one")
    away = {"AWS_ENDPOINT_URL_S3": "http://{}:{}".format(*gone())}
    graph = "results/digits/quantized/LeViT-tiny.int8_qat.cpu.onnx"
    status, output = one.run("--", graph, **away)
    assert status == 0 and output.count("warning: ") == 1, output
    assert f"the store {AT}/{tmp_path.name} is not used for now, and jobs go on without it: no connection" in output
    assert "entries wait for" in output and s3_server.SECRET not in output and not stored(tmp_path)
    one.path(graph).unlink()
    status, output = one.run("--", graph)
    assert status == 0 and "warning" not in output and "wait" not in output, output
    assert set(stored(tmp_path)) == {"calibrate", "decode_split", "plan_precision", "train", "train_qat"}


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_its_uploads_to_the_next(machine, tmp_path):
    one = machine("one")
    process = one.start("--", "results/digits/qat/LeViT-tiny.int8_qat.pth", LEVIT_PAUSE="train_qat")
    log = one.path("work.log")
    while not (log.exists() and "train_qat" in log.read_text()):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert one.build("results/digits/qat/LeViT-tiny.int8_qat.pth") == ["train_qat digits/qat/LeViT-tiny.int8_qat.pth"]
    assert "train_qat" in stored(tmp_path) and "train" in stored(tmp_path)
    assert not list(one.path(".cache/store").glob(".pending/*"))


RESULT, STOPPED_AT = "results/LeViT-tiny.int8_qat.cpu.json", "results/digits/calibration/LeViT-tiny.int8_qat.json"
HEAVY = {"decode_split", "train", "calibrate", "train_qat", "plan_precision", "build_engine"}
MADE = ("*.pth", "*.onnx", "*.u8", "*.npy", "*.engine", "calibration/*.json", "plans/*.json")


def quick(config):
    """Train little and time shortly."""
    config["datasets"]["digits"]["training"].update(epochs=1, small_epochs=1, batch=64)
    config["precisions"]["int8_qat"].update(budget=100.0)
    config["precisions"]["int8_qat"]["calibration"]["images"] = 64
    config["precisions"]["int8_qat"]["qat"]["steps"] = 4
    config["targets"]["cpu"].update(warmup_ms=20, duration_ms=100, iterations=10)


def made(workflow):
    """Return the bytes of what a run made, timings and records left out."""
    root = workflow.path("results/digits")
    return {path.relative_to(root): path.read_bytes() for kind in MADE for path in root.rglob(kind)}


def ways(output):
    """Return (rule, how it got its outputs) of each job of a run."""
    return re.findall(r"^\[.*\] (\w+) .*: (made|from the store|kept timing) in", output, re.MULTILINE)


@pytest.mark.slow
def test_a_whole_result_comes_from_the_bucket_and_is_finished_without_it(machine, tmp_path):
    """Real work: one machine does all, another trains nothing, for a third the server goes after its calibration."""
    server, machines = s3_server.start(), [machine(name) for name in ("one", "other", "third")]
    for each in machines:
        each.config(quick)
        each.variables.update(s3_server.variables(server.get_host_and_port()), LEVIT_PYTHON=forks.working_python())
    one, other, third = machines
    status, output = one.run("--", RESULT)
    assert status == 0 and "from the store" not in output and "wait for" not in output, output
    status, output = other.run("--", RESULT)
    assert status == 0 and "made" not in {how for rule, how in ways(output) if rule in HEAVY}, output
    assert {rule for rule, how in ways(output) if how == "from the store"} >= HEAVY, output
    assert made(other) == made(one) and len(made(one)) > 10
    assert len(stored(tmp_path)) == len(list(one.path(".cache/store").glob("??/*"))) > 5
    process = third.start("--", RESULT)
    while not third.path(STOPPED_AT).exists():
        assert process.poll() is None
        time.sleep(0.05)
    server.stop()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and output.count("is not used for now, and jobs go on without it") == 1, output
    assert made(third) == made(one)


def test_snakemakes_own_storage_is_refused_with_a_remedy():
    """It would leave the record of each artifact behind."""
    check = run_checks.check_requested.__wrapped__
    with pytest.raises(UserError, match="--default-storage-provider .*docs/store.md"):
        check(["--default-storage-provider", "s3", "--cores", "1"], (), None)
    check(["--default-storage-provider", "none"], (), None)
