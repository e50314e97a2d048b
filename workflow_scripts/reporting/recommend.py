"""Which engine each target should run, and why. Standard library only.

A precision that chooses has decided it, from timings in turns. Without one, it is the engine of the highest throughput
among those within their budgets, by separate timings: stable ones where there are any.
"""

from __future__ import annotations

from typing import Any

from measure import proportion
from reporting import comparison, over_pytorch

CHOSEN = "chosen: "  # the start of the chosen candidate's verdict (reporting/choice.py)


def recommendations(results: list[dict]) -> list[dict[str, Any]]:
    """Return the recommended engine of each images, target and model, as what page/headline.html says of it.

    PyTorch's own results are recommended only where there are no others: they are what the others are compared with.
    """
    engines = [r for r in results if r["target_identity"].get("runtime") != over_pytorch.RUNTIME] or results
    groups = {}
    for result in engines:
        groups.setdefault((comparison.images_of(result), result["target"], result["model"]), []).append(result)
    return [_described(results, *_pick(group)) for _, group in sorted(groups.items())]


def _pick(group):
    chosen = [result for result in group if result["chosen"]]
    if chosen:
        return chosen[0], _reason(chosen[0])
    able = [r for r in group if r["accuracy"]["within_budget"] and not comparison.is_barely_int8(r)]
    steady = [result for result in able if _entry(result)["stable"]]
    if not able:
        best = max(group, key=lambda result: result["accuracy"]["top1"])
        return best, "no engine is within its budget of lost top-1 points; this one has the highest top-1"
    best = max(steady or able, key=lambda result: _entry(result)["images_per_second"])
    if len(able) == 1:
        return best, "the only engine within its accuracy budget"
    return best, f"the highest throughput of the {len(able)} engines within their accuracy budgets, by separate timings"


def _reason(result):
    candidates = result["candidates"] or []
    verdict = next((one["verdict"] for one in candidates if one["verdict"].startswith("chosen")), "")
    precisions = sorted({one["precision"] for one in candidates})
    among = f"; chosen for {result['objective']}" if result["objective"] else ""
    among += f" among {', '.join(precisions)}" if len(precisions) > 1 else ""
    return (verdict[len(CHOSEN) :] if verdict.startswith(CHOSEN) else verdict) + among


def _entry(result):
    return comparison.timing(result, comparison.best_batch(result))


def _described(results, result, why):
    entry, accuracy = _entry(result), result["accuracy"]
    over = over_pytorch.over_pytorch(results, result, entry["batch"])
    over = over if over and comparison.UNSTABLE not in over.ratio.mark else None
    engine = result if not result["chosen"] else _own(results, result)
    base = comparison.ratio(results, engine, entry["batch"]) if engine["precision"] != comparison.BASELINE else None
    again = comparison.unstable([result]) if result["chosen"] else not entry["stable"]
    return {
        **{"result": result, "entry": entry, "why": why, "device": comparison.device(result)},
        "name": result["chosen"] or result["precision"],
        "interval": proportion.interval(accuracy["top1"], accuracy["num_images"]) if accuracy["num_images"] else None,
        "over": over,
        "over_fp32": base if base and comparison.UNSTABLE not in base.mark else None,
        "bundle": _bundle(result),
        "command": f"make retime RESULT={comparison.path_of(result)}" if again else None,
    }


def _bundle(result):
    """Return the command that packs an engine for deployment; None for PyTorch's, which has no clients."""
    if result["target_identity"].get("runtime") == over_pytorch.RUNTIME:
        return None
    return f"snakemake {comparison.artifact_of(result, 'bundles', 'tar.gz')}"


def _own(results, result):
    """Return the result of the engine that a choosing result took, or the choosing one where it is not there."""
    same = [one for one in results if one["engine"]["sha256"] == result["engine"]["sha256"] and not one["chosen"]]
    return next((one for one in same if one["precision"] == result["chosen"]), result)
