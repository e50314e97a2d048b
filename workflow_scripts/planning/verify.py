"""Build an engine by a plan, score it on the select split, and build once more where it misses the plan's criterion.

On devices too: Python 3.8. How a plan acts depends on the target: a weakly typed TensorRT is told the precision of its
layers; quantizers and Casts are in the graph already. So a plan can grow where layers are told, and where Q/DQ pairs
can be taken out of the graph (with onnx, which not every device has). Elsewhere the miss is recorded and no more.
"""

import collections
import contextlib
import os

from core.command import log
from core.files import UserError
from measure.logits import logits_of
from planning import criterion, strip_qdq
from planning import plan as plans

REPEATS = 2  # scores of an engine on a GPU, of which the worse counts: its kernels may add in another order each time

# images: uint8 [N, size, size, 3]; labels int64 [N]; reference: PyTorch FP32's logits [N, C]; model: {"mean", "std"}
Select = collections.namedtuple("Select", "images labels reference model")
Attempt = collections.namedtuple("Attempt", "described verdict plan")


def build(runtime, onnx, recipe, path, engine, select, typed=False, unreachable=None, **more):
    """Build an engine file and return its description, with `plan`, `select` (a verdict per build), `engine_builds`.

    path: a plan's file; typed: whether the graph says all types; unreachable: why engines cannot run here, and so are
    not scored, or None.
    """

    def attempt(graph, plan, path):
        described = runtime.build(graph, recipe, layers_of(plan, runtime, typed), path, **more)
        return Attempt(described, None if unreachable else score(runtime, path, recipe, select, plan), plan)

    plan, beside = plans.read(path), f"{engine}.grown"
    attempts = [attempt(onnx, plan, engine)]
    missed = attempts[0].verdict is not None and not attempts[0].verdict["met"]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove, beside, f"{beside}.onnx")
        again = _grown(onnx, plan, runtime, typed, f"{beside}.onnx") if missed else None
        if again:
            log.info("the engine misses the criterion: built once more by a plan of %d nodes", len(again[1]["nodes"]))
            attempts.append(attempt(*again, beside))
            if attempts[1].verdict["slack"] > attempts[0].verdict["slack"]:
                os.replace(beside, engine)
    return _described(attempts, unreachable, path)


def layers_of(plan, runtime, typed):
    """Return the plan that a runtime's builder is to follow, or None where the graph says all."""
    nodes = [node for node in plan["nodes"] if node["precision"] == "fp32"]
    follows = getattr(runtime, "TAKES_PLANS", False) and not typed and nodes
    return {"nodes": nodes, "graph": plan.get("graph", [])} if follows else None


def score(runtime, engine, recipe, select, plan):
    """Return the verdict (planning/criterion.py) of an engine file on the select split."""
    session = runtime.load(engine, recipe.get("threads", 0))
    verdicts = []
    for _ in range(REPEATS if session.on_gpu else 1):
        logits = logits_of(session, engine, select.images, select.model)
        verdicts.append(criterion.verdict(logits, select.labels, select.reference, plan["criterion"]))
    worst = min(verdicts, key=lambda verdict: verdict["slack"])
    log.info(
        "select: top-1 %.2f %% (FP32 %.2f %%), slack %.2f points", *(worst[k] for k in ("top1", "fp32_top1", "slack"))
    )
    return worst


def _grown(onnx, plan, runtime, typed, path):
    """Return (graph, plan) for a second build, or None where the plan cannot grow there."""
    more = plans.grown(plan)
    if more is None or typed:
        return None
    if plan["compute"] == "int8":
        return (path, more) if strip_qdq.without(onnx, plans.modules(more) - plans.modules(plan), path) else None
    return (onnx, more) if getattr(runtime, "TAKES_PLANS", False) else None


def _described(attempts, unreachable, path):
    best = max(attempts, key=lambda one: one.verdict["slack"] if one.verdict else 0.0)
    warnings = list(best.described["warnings"])
    if unreachable:
        warnings.append(f"the plan is not verified on the select split: {unreachable}")
    elif not best.verdict["met"]:
        grew = "also by a grown plan" if len(attempts) > 1 else "and its plan cannot grow here"
        warnings.append(f"the criterion is missed by {-best.verdict['slack']:.2f} points on the select split, {grew}")
    kept = {key: best.plan.get(key) for key in ("nodes_total", "nodes_high_precision", "criterion", "met", "measured")}
    return {
        **best.described,
        "warnings": warnings,
        "plan": {**kept, "engine": best.verdict, "path": path, "nodes": sorted(plans.names(best.plan))},
        "select": [one.verdict for one in attempts],
        "engine_builds": len(attempts),
        "build_seconds": round(sum(one.described["build_seconds"] for one in attempts), 3),
    }


def _remove(*paths):
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def select_of(images, index_path, reference, model):
    """Return the Select of files; raise UserError where their lengths differ."""
    from data import cache, index
    from measure.logits import read_logits

    labels = index.labels(index.read(index_path), "select")
    found = Select(cache.read(images, len(labels)), labels, read_logits(reference), model)
    if len(found.reference) != len(labels):
        raise UserError(f"{reference} has {len(found.reference)} rows, the select split {len(labels)}: run again")
    return found
