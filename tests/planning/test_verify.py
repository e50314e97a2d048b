"""Engines are held to their plan on the select split, and built once more by a grown plan where they miss it.

The runtimes here are stand-ins that compute what they are told; test_engine_commands.py has the real ones.
"""

import json
import types

import numpy as np
import pytest

from core.files import UserError
from planning import plan as plans
from planning import verify

MODEL = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
COUNT, CLASSES = 20, 4
GROUPS = [
    {"name": "first", "nodes": ["a/Gemm"], "effect": 0.9},
    {"name": "second", "nodes": ["b/Gemm", "c/Gemm"], "effect": 0.3},
]


class Runtime:
    """A runtime whose engines are wrong on 5 of 20 images for every harmful node that it is not told to keep."""

    TAKES_PLANS = True

    def __init__(self, harmful, noise=0):
        self.harmful, self.noise, self.built, self.runs = set(harmful), noise, [], 0

    def build(self, graph, recipe, plan, engine, **more):
        kept = {node["name"] for node in plan["nodes"]} if plan else set()
        self.built.append(sorted(kept))
        with open(engine, "w") as stream:
            json.dump(sorted(self.harmful - kept), stream)
        return {"warnings": [], "build_seconds": 1.0, "engine_builds": 1}

    def load(self, engine, threads):
        with open(engine) as stream:
            harm = len(json.load(stream))
        return types.SimpleNamespace(
            batches=[COUNT], dtype=np.float32, on_gpu=bool(self.noise), run=lambda images: self._run(harm)
        )

    def _run(self, harm):
        self.runs += 1
        wrong = 5 * harm + (self.noise if self.runs % 2 == 0 else 0)
        return np.eye(CLASSES, dtype=np.float32)[[(i % CLASSES + (i < wrong)) % CLASSES for i in range(COUNT)]]


@pytest.fixture
def select():
    labels = np.arange(COUNT) % CLASSES
    reference = np.eye(CLASSES, dtype=np.float32)[labels]
    return verify.Select(np.zeros((COUNT, 4, 4, 3), np.uint8), labels, reference, MODEL)


@pytest.fixture
def build(tmp_path, select):
    def run(runtime, budget=1.0, nodes=(), compute="fp16", groups=GROUPS, **more):
        found = {"compute": compute, "fallback_precision": "fp32", "nodes_total": 9, "criterion": {"budget": budget}}
        found.update(nodes=[{"name": name, "precision": "fp32"} for name in nodes], nodes_high_precision=len(nodes))
        found.update(groups=list(groups), graph=["a/Gemm", "b/Gemm", "c/Gemm"], met=True, measured={})
        (tmp_path / "plan.json").write_text(json.dumps(found))
        engine = tmp_path / "engine"
        described = verify.build(runtime, "no.onnx", {}, str(tmp_path / "plan.json"), str(engine), select, **more)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "plan.json"]
        return described, json.loads(engine.read_text())

    return run


def test_a_plan_that_is_met_costs_one_build(build):
    runtime = Runtime({"a/Gemm"})
    described, engine = build(runtime, nodes=["a/Gemm"])
    assert runtime.built == [["a/Gemm"]] and engine == [] and runtime.runs == 1
    assert described["engine_builds"] == 1 and described["select"][0]["met"] and described["warnings"] == []
    assert described["plan"]["nodes"] == ["a/Gemm"] and described["plan"]["nodes_high_precision"] == 1


def test_a_missed_plan_grows_by_one_group_and_is_rebuilt_once(build):
    runtime = Runtime({"a/Gemm"})
    described, engine = build(runtime)
    assert runtime.built == [[], ["a/Gemm"]] and engine == []
    assert described["engine_builds"] == 2 and described["build_seconds"] == 2.0
    assert [verdict["met"] for verdict in described["select"]] == [False, True]
    assert described["plan"]["nodes"] == ["a/Gemm"] and described["plan"]["path"].endswith("plan.json")


def test_what_two_builds_do_not_meet_is_said(build):
    runtime = Runtime({"a/Gemm", "b/Gemm"})
    described, engine = build(runtime)
    assert len(runtime.built) == 2 and engine == ["b/Gemm"], "the better of the two is kept"
    assert described["warnings"] == [
        "the criterion is missed by 20.00 points on the select split, also by a grown plan"
    ]


def test_a_rebuild_that_is_no_better_is_not_kept(build):
    runtime = Runtime({"b/Gemm"})
    described, engine = build(runtime)
    assert runtime.built == [[], ["a/Gemm"]] and engine == ["b/Gemm"] and described["plan"]["nodes"] == []
    assert described["engine_builds"] == 2


@pytest.mark.parametrize("more", [{"strongly_typed": True}, {"groups": ()}], ids=["typed", "no group"])
def test_where_a_plan_cannot_grow_the_miss_is_recorded(build, more):
    runtime = Runtime({"a/Gemm"})
    described, _ = build(runtime, **more)
    assert runtime.built == [[]] and described["engine_builds"] == 1
    assert "is missed by 20.00 points on the select split, and its plan cannot grow here" in described["warnings"][0]


def test_a_typed_graph_says_all(build):
    runtime = Runtime(set())
    build(runtime, nodes=["a/Gemm"], strongly_typed=True)
    assert runtime.built == [[]]


def test_the_worse_of_repeated_scores_counts_on_a_gpu(build):
    described, _ = build(Runtime(set(), noise=5), groups=())
    assert described["select"][0]["top1"] == 75.0


def test_engines_that_cannot_run_here_are_not_scored(build):
    runtime = Runtime({"a/Gemm"})
    described, _ = build(runtime, unreachable="there is no GPU")
    assert described["select"] == [None] and runtime.runs == 0 and runtime.built == [[]]
    assert described["warnings"] == ["the plan is not verified on the select split: there is no GPU"]


def test_a_reference_of_other_images_is_refused(tmp_path):
    np.save(tmp_path / "r.npy", np.zeros((3, CLASSES), np.float32))
    with open(tmp_path / "s.u8", "wb") as stream:
        np.save(stream, np.zeros((2, 4, 4, 3), np.uint8))
    images = [{"path": f"{i}.png", "label": 0, "bytes": 1, "sha256": None} for i in range(2)]
    index = {"classes": ["a", "b"], "root": ".", "images": images, "splits": {"select": [0, 1]}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    paths = [str(tmp_path / name) for name in ("s.u8", "index.json", "r.npy")]
    with pytest.raises(UserError, match="r.npy has 3 rows, the select split 2: run again"):
        verify.select_of(*paths, MODEL)


def test_plan_files_without_a_precision_are_refused(tmp_path):
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(UserError, match="is not a plan"):
        plans.read(tmp_path / "plan.json")
