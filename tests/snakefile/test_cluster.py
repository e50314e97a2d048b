"""What a run on a cluster asks for: cores of a node, resources by rule and row, partitions of targets."""

import re
from types import SimpleNamespace

import pytest
import yaml

from configuration import checks
from core.files import UserError
from snakefile import needs, nodes
from workflow import REPOSITORY, Workflow

CONFIG = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
SCHEMA = REPOSITORY / "rules/schemas/config.schema.yaml"
SINFO = """#!/bin/sh
echo "main* 8"
echo "main* 4"
echo "gpu 32"
"""


def tables(given, **rows):
    targets = {name: {**row, **rows.get(name, {})} for name, row in CONFIG["targets"].items()}
    return checks.load({**CONFIG, "targets": targets, "cluster": given}, SCHEMA)


def wildcards(**names):
    return SimpleNamespace(**{"dataset": "digits", "model": "LeViT-128S", "precision": "int8_qat", **names})


@pytest.fixture
def sinfo(tmp_path, monkeypatch):
    (tmp_path / "sinfo").write_text(SINFO)
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(nodes.CORES, raising=False)
    nodes._cores_of.cache_clear()
    yield
    nodes._cores_of.cache_clear()


def test_cores_are_those_of_the_smallest_node(sinfo):
    assert nodes.cores(tables({})) == 4
    assert nodes.cores(tables({"gpus": 1, "gpu_partition": "gpu"})) == 4
    assert nodes.cores(tables({"partition": "gpu"})) == 32
    assert nodes.cores(tables({"cores": 6})) == 6
    assert nodes.cores(tables({}, cpu={"slurm": {"partition": "gpu"}}), "cpu") == 32
    assert nodes.cores(tables({}, cpu={"slurm": {"cores": 3}}), "cpu") == 3


def test_an_unknown_partition_is_named_with_those_that_there_are(sinfo):
    with pytest.raises(UserError, match="there is no partition big: one of gpu, main"):
        nodes.cores(tables({"partition": "big"}))


def test_without_sinfo_a_number_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="give a number"):
        nodes.cores(tables({"partition": "elsewhere"}))


def test_a_larger_model_or_dataset_gets_more_time():
    given = tables({"cores": 1})
    small, large = (needs.cost(given, wildcards(model=name)) for name in ("LeViT-tiny", "LeViT-384"))
    assert small < 1 < large
    images = [needs.trained_images(given, wildcards(dataset=name)) for name in ("digits", "glyphs", "imagenet")]
    assert images == sorted(images) and images[2] == 1_300_000


@pytest.mark.parametrize("rule", needs.NEEDS)
def test_a_second_attempt_gets_twice_as_much(rule):
    given = tables({"cores": 1})
    w = wildcards(target="cpu", split="val", scores="accuracy")
    resources = needs.of(rule, given)
    first, second = ({name: value(w, attempt) for name, value in resources.items()} for attempt in (1, 2))
    assert all(first[name] > 0 and abs(second[name] - 2 * first[name]) <= 1 for name in first)


def test_a_gpu_shortens_a_training():
    minutes = [needs.of("train", tables({"cores": 1, "gpus": n}))["runtime"](wildcards(), 1) for n in (0, 1)]
    assert minutes[1] < minutes[0]


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    return Workflow.fresh(tmp_path_factory.mktemp("cluster") / "work")


def test_every_rule_says_what_it_needs_where_there_is_a_cluster(workflow):
    workflow.path("nodes.yaml").write_text("cluster: {cores: 3, gpus: 2, gpu_partition: fast}\n")
    target = "results/LeViT-128S.int8_qat.cpu.json"
    status, output = workflow.run("-n", "--cores", "4", "--configfile", "nodes.yaml", "--", target)
    assert status == 0, output
    blocks = dict(block.split(":", 1) for block in re.split(r"\n\s*rule ", output)[1:])
    for rule in ("index_dataset", "decode_split", "train", "calibrate", "build_engine", "benchmark"):
        assert all(f"{name}=" in blocks[rule] for name in ("mem_mb", "runtime", "disk_mb")), rule
    assert "gpu=2" in blocks["train"] and "slurm_partition=fast" in blocks["train"]
    assert "threads: 3" in blocks["train"] and "slurm_extra=--exclusive" in blocks["benchmark"]
    assert "gpu=0" in blocks["benchmark"]


def test_a_cluster_makes_nothing_stale(workflow):
    target = "results/LeViT-tiny.fp32.cpu.json"
    assert workflow.build(target)
    status, output = workflow.run("-n", "--configfile", "nodes.yaml", "--", target)
    assert status == 0 and "Nothing to be done" in output, output
