"""Build an engine by a plan, score it on the select split, and build it again if it misses the plan's criterion.

Runs on devices: Python 3.8. How a plan takes effect depends on the target. A weakly typed TensorRT takes the precision
of its layers from the plan; quantizers and Casts are already in the graph. A plan can therefore grow where the builder
sets the precision of layers, or where Q/DQ pairs can be removed from the graph (with onnx, which not every device has).
Elsewhere a miss is only recorded.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any, Mapping, NamedTuple

import numpy as np

from core.command import log
from core.files import UserError
from data import cache, index
from measure.logits import logits_of, read_logits
from planning import criterion, strip_qdq
from planning import plan as plans

REPEATS = 2  # scores of an engine on a GPU; the worst counts, since kernels may add in a different order each time


class Select(NamedTuple):
    """The select split, and what engines are compared to."""

    images: np.ndarray  # uint8 [N, size, size, 3]
    labels: np.ndarray  # int64 [N]
    reference: np.ndarray  # PyTorch FP32's logits, float32 [N, classes]
    model: Mapping  # {"mean", "std"}


class Attempt(NamedTuple):
    """One build: the engine's description, its verdict (None if it cannot run here), and its plan."""

    described: dict
    verdict: dict | None
    plan: dict


def build(
    runtime: ModuleType,
    onnx: str,
    recipe: dict,
    path: str,
    engine: str,
    select: Select,
    strongly_typed: bool = False,
    unreachable: str | None = None,
    **options: Any,
) -> dict:
    """Build an engine file and return its description, with `plan`, `select` (a verdict per build), `engine_builds`.

    path: a plan's file; strongly_typed: whether the graph gives all types; unreachable: why engines cannot run here
    and are not scored, or None; options: of the runtime's `build`.
    """

    def attempt(graph, plan, path):
        described = runtime.build(graph, recipe, layers_of(plan, runtime, strongly_typed), path, **options)
        return Attempt(described, None if unreachable else score(runtime, path, recipe, select, plan), plan)

    plan, second = plans.read(path), f"{engine}.grown"
    attempts = [attempt(onnx, plan, engine)]
    missed = attempts[0].verdict is not None and not attempts[0].verdict["met"]
    with contextlib.ExitStack() as stack:
        for partial in (second, f"{second}.onnx"):
            stack.callback(Path(partial).unlink, missing_ok=True)
        again = _grown(onnx, plan, runtime, strongly_typed, f"{second}.onnx") if missed else None
        if again:
            graph, more = again
            log.info("the engine misses the criterion: built again by a plan of %d nodes", len(more["nodes"]))
            attempts.append(attempt(graph, more, second))
            if attempts[1].verdict["slack"] > attempts[0].verdict["slack"]:
                os.replace(second, engine)
    return _described(attempts, unreachable, path)


def layers_of(plan: dict, runtime: ModuleType, strongly_typed: bool) -> dict | None:
    """Return the plan for a runtime's builder, or None if the graph alone decides the precisions."""
    nodes = [node for node in plan["nodes"] if node["precision"] == "fp32"]
    follows = getattr(runtime, "TAKES_PLANS", False) and not strongly_typed and nodes
    return {"nodes": nodes, "graph": plan.get("graph", [])} if follows else None


def score(runtime: ModuleType, engine: str, recipe: dict, select: Select, plan: dict) -> dict:
    """Return the verdict (planning/criterion.py) of an engine file on the select split."""
    session = runtime.load(engine, recipe.get("threads", 0))
    verdicts = []
    for _ in range(REPEATS if session.on_gpu else 1):
        logits = logits_of(session, engine, select.images, select.model)
        verdicts.append(criterion.verdict(logits, select.labels, select.reference, plan["criterion"]))
    worst = min(verdicts, key=lambda verdict: verdict["slack"])
    figures = (worst[key] for key in ("top1", "fp32_top1", "slack"))
    log.info("select: top-1 %.2f %% (FP32 %.2f %%), slack %.2f points", *figures)
    return worst


def _grown(onnx, plan, runtime, strongly_typed, path):
    """Return (graph, plan) for a second build, or None if the plan cannot grow on this target."""
    more = plans.grown(plan)
    if more is None or strongly_typed:
        return None
    if plan["compute"] == "int8":
        return (path, more) if strip_qdq.strip(onnx, plans.modules(more) - plans.modules(plan), path) else None
    return (onnx, more) if getattr(runtime, "TAKES_PLANS", False) else None


def _described(attempts, unreachable, path):
    best = max(attempts, key=lambda attempt: attempt.verdict["slack"] if attempt.verdict else 0.0)
    warnings = list(best.described["warnings"])
    if unreachable:
        warnings.append(f"the plan is not verified on the select split: {unreachable}")
    elif not best.verdict["met"]:
        grew = "also by a grown plan" if len(attempts) > 1 else "and its plan cannot grow here"
        warnings.append(f"the criterion is missed by {-best.verdict['slack']:.2f} points on the select split, {grew}")
    keys = ("nodes_total", "nodes_high_precision", "criterion", "met", "measured")
    summary = {key: best.plan.get(key) for key in keys}
    return {
        **best.described,
        "warnings": warnings,
        "plan": {**summary, "engine": best.verdict, "path": path, "nodes": sorted(plans.names(best.plan))},
        "select": [attempt.verdict for attempt in attempts],
        "engine_builds": len(attempts),
        "build_seconds": round(sum(attempt.described["build_seconds"] for attempt in attempts), 3),
    }


def select_of(images: str, index_path: str, reference: str, model: Mapping) -> Select:
    """Return the Select of files; raise UserError if their lengths differ."""
    labels = index.labels(index.read(index_path), "select")
    logits = read_logits(reference)
    if len(logits) != len(labels):
        raise UserError(f"{reference} has {len(logits)} rows, the select split {len(labels)}: run again")
    return Select(cache.read(images, len(labels)), labels, logits, model)
