"""Where jobs of a SLURM cluster run: those that a GPU helps on its partition, those of a board over ssh from the head.

The cluster has a partition without a GPU, and one with a node of which it believes that it has one.
"""

import json
import re
import shlex
import sys

import pytest
import torch
from test_slurm import CHECKPOINT, RESULT, Run

import boards
import slurm
from model import zoo
from workflow import Workflow

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(slurm.missing()), reason="no SLURM: make slurm"),
    pytest.mark.skipif(not (slurm.UNPACKED / "python").is_dir(), reason="no plugin: make slurm"),
]
NODES = """cluster:
  cores: 0
  partition: main
  gpu_partition: fast
  gpus: 1
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    partitions = {"main": ["n1"], "fast": ["n2"]}
    made = slurm.Cluster(tmp_path_factory.mktemp("slurm"), partitions=partitions, gpus=["n2"], timeout=300)
    yield made
    made.close()


@pytest.fixture
def run(cluster, tmp_path):
    made = Run(Workflow.fresh(tmp_path / "work"), cluster)
    made.workflow.path("profiles/slurm/cluster.yaml").write_text(NODES)
    return made


def places(run):
    """Return {group or rule of a submission: partition and node, and GPUs where it asked for some}."""
    asked = [
        line for line in run.cluster.ask("scontrol", "show", "job", "--oneliner").splitlines() if "gres:gpu" in line
    ]
    gpus = dict(re.search(r"JobId=(\d+) .*TresPerJob=(\S+)", line).groups() for line in asked)
    lines = [line.split("|") for line in run.jobs("%k|%i|%P %N")]
    return {
        comment.split("_")[1].split(".")[0]: f"{place} {gpus.get(number, '')}".rstrip()
        for comment, number, place in lines
    }


def test_what_a_gpu_helps_goes_to_its_partition_and_asks_for_one(run):
    run.start(RESULT)
    status, output = run.end()
    assert status == 0, output
    assert places(run) == {
        **dict.fromkeys(("index", "fingerprint", "images", "engines"), "main n1"),
        "weights": "fast n2 gres:gpu:1",
    }
    assert run.workflow.path(CHECKPOINT).exists() and run.workflow.plan(RESULT) == []


@pytest.mark.skipif(bool(boards.missing()), reason=f"no {boards.missing()}: `make board` brings them")
def test_jobs_of_a_board_run_from_the_head_over_ssh(run, request):
    """Real work: a checkpoint's evaluation and graph on the nodes, engine and timings on the board."""
    board = boards.made()
    request.addfinalizer(board.stop)
    run.workflow.config(lambda config: with_board(config, board, run.workflow))
    tools = run.workflow.path("tools")
    tools.mkdir()
    words = shlex.join([*board.entering(), boards.program("ssh")])  # the board's network is not the cluster's
    (tools / "ssh").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (tools / "ssh").chmod(0o755)
    path = f"{tools}:{run.variables['PATH']}:{board.variables['PATH']}"
    run.variables.update(board.variables, PATH=path, LEVIT_PYTHON=sys.executable)
    result = "results/LeViT-tiny.fp32.board.json"
    run.start(result)
    status, output = run.end(600)
    assert status == 0, output
    assert set(places(run)) == {"index", "images", "weights"}, places(run)
    assert output.count("_over_ssh ") == 4, output  # identity, build, evaluation, timings
    assert json.loads(run.workflow.path(result).read_text())["benchmark"][0]["throughput_qps"] > 0


def with_board(config, board, workflow):
    small = config["models"]["LeViT-tiny"]
    torch.manual_seed(0)
    torch.save(zoo.create(small, 10).state_dict(), workflow.path("w.pth"))
    config["datasets"]["digits"]["weights"] = "w.pth"
    quick = {"warmup_ms": 50, "duration_ms": 200, "iterations": 10}
    config["targets"]["board"] = {**config["targets"]["cpu"], **quick, **board.row()}
