"""A killed run leaves a state from which the same command completes; two runs in one folder are kept apart."""

import contextlib
import os
import signal
import time

import psutil
import pytest

from workflow import Workflow

TARGET = "results/LeViT-tiny.fp32.cpu.json"
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("build_engine", "index_dataset")]


@pytest.fixture
def workflow(tmp_path):
    return Workflow.fresh(tmp_path / "run")


def paused(workflow, command):
    """Start a run whose `command` stops in the middle of its first output; return the process once it is there."""
    process = workflow.start("--quiet", "--", TARGET, LEVIT_PAUSE=command)
    deadline = time.monotonic() + 120
    while not any(f'"command":"{command}"' in line for line in workflow.work_lines()):
        assert time.monotonic() < deadline, "the job did not start"
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    while not list(workflow.path("results").rglob("*.partial")):
        time.sleep(0.05)
    return process


def children_of(process):
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == process.pid and pid != process.pid:
                found.append(pid)
    return found


def kill_all(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("command", ["assemble_result", "train", *SLOW])
def test_killed_with_its_jobs(workflow, command):
    kill_all(paused(workflow, command))
    assert not workflow.path(TARGET).exists()
    status, output = workflow.run("--quiet", "--", TARGET)
    assert status == 0, output
    assert workflow.path(TARGET).exists()
    assert workflow.plan(TARGET) == []
    assert not list(workflow.path("results").rglob("*.partial"))


def test_jobs_of_a_killed_run_are_waited_for(workflow):
    process = paused(workflow, "train")
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        status, output = workflow.run("--quiet", "--", TARGET)
        assert status == 1
        assert output.splitlines()[-1] == (
            "error: a job of an earlier, killed run is still at work in this folder: wait for it, or end it"
        )
    finally:
        for pid in children_of(process):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while children_of(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    status, output = workflow.run("--quiet", "--", TARGET)
    assert status == 0, output


def test_two_runs_are_kept_apart(workflow):
    process = paused(workflow, "train")
    try:
        status, output = workflow.run("--quiet", "--", TARGET)
        assert status == 1
        assert output.splitlines()[-1] == "error: another snakemake is at work in this folder: wait for it, or end it"
        assert workflow.plan(TARGET)  # a dry run asks for no lock
    finally:
        kill_all(process)
