"""Which engine and batch size a precision that chooses takes, by its objective, and the verdict on each candidate.

A candidate is a precision at a batch size. Its cost is the median latency of a query (objective latency) or the time of
an image (throughput), in milliseconds for each round of turns. The ratio of two candidates is the median over the
rounds; which of them is better is known if its interval does not contain 1. Standard library only.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from core.files import UserError
from core.objective import Objective
from measure import paired

IN_TURNS, APART = "in turns", "apart"
UNSTABLE = "; its turns were not stable"
PRIVATE = ("rounds", "quantized", "not_offered")  # keys of a candidate that its result does not have


class Metric(NamedTuple):
    """What an objective compares: the cost in each round, and the words of its verdicts."""

    cost: Callable[[dict], list[float]]
    best: str
    over: str
    link: str
    doubt: str


METRICS = {
    "latency": Metric(lambda turns: turns["median_ms"], "the fastest", "times as fast", "as", "may be no faster"),
    "throughput": Metric(
        lambda turns: [1000 / speed for speed in turns["images_per_second"]],
        "the highest throughput",
        "times the throughput",
        "of",
        "may have no more",
    ),
}


def candidates(result: dict, score: dict, timed: dict, objective: Objective) -> list[dict]:
    """Return the candidates of a result, one for each batch size, with the timing in turns or else the engine's own.

    score: {top1, lost, within_budget, quantized, not_offered}; timed: what paired_benchmark.py wrote.
    """
    precision = result["precision"]
    turns = {
        entry["batch"]: (entry["stable"], engine)
        for entry in timed["paired_benchmark"]
        for engine in entry["engines"]
        if engine["precision"] == precision
    }
    return [
        {"precision": precision, "batch": one["batch"], **_timing(one, turns.get(one["batch"]), objective), **score}
        for one in result["benchmark"]
    ]


def _timing(own, turns, objective):
    """Return a candidate's timing; turns: (stable, the engine's rounds), or None if it was not timed in turns."""
    if turns is None:
        latency = {key: own["latency_ms"][key] for key in ("median", "p99")}
        speed, facts = own["images_per_second"], {"taken": APART, "stable": own["stable"], "rounds": None}
    else:
        stable, engine = turns
        latency, speed = engine["latency_ms"], statistics.median(engine["images_per_second"])
        facts = {"taken": IN_TURNS, "stable": stable, "rounds": METRICS[objective.metric].cost(engine)}
    within = None if objective.limit_ms is None else latency["p99"] <= objective.limit_ms
    return {"images_per_second": speed, "latency_ms": latency, "within_limit": within, **facts}


def choose(several: list[dict], finalists: list[str], objective: Objective, budget: float) -> dict:
    """Return the chosen candidate, and add to each `paired`, the ratio to the chosen one, and its `verdict`.

    finalists: the precisions that may be chosen. Raises UserError if none of them keeps to the limit of the objective.
    """
    finalist = [one for one in several if one["precision"] in finalists]
    able = [one for one in finalist if not one["not_offered"]] or finalist
    timely = [one for one in able if one["within_limit"] is not False]
    if not timely:
        raise UserError(_too_slow(several, able, objective))
    winner, reason = pick(timely, objective)
    for one in several:
        one["paired"] = _ratio(one, winner) if one["rounds"] and winner["rounds"] else None
        one["verdict"] = _verdict(one, winner, reason, objective, budget)
    return winner


def pick(able: list[dict], objective: Objective) -> tuple[dict, str]:
    """Return the preferred one of the candidates that may be as good as the best, and why."""
    metric, limit = METRICS[objective.metric], objective.limit_ms
    bounds = "the budget" if limit is None else f"the budget and {limit:g} ms at p99"
    if len(able) == 1:
        return able[0], f"the only one within {bounds}"
    best = max(able, key=lambda one: _ratio(one, able[0])["ratio"])
    level = [one for one in able if one is best or paired.is_level(_ratio(best, one))]
    winner = min(level, key=_preference)
    if winner is best:
        return best, f"{metric.best} within {bounds}"
    return winner, f"{name(best)}, {_text(_ratio(best, winner), metric)}, {metric.doubt} and {_behind(best, winner)}"


def public(one: dict) -> dict[str, Any]:
    """Return a candidate as results have it."""
    return {key: value for key, value in one.items() if key not in PRIVATE}


def name(one: dict) -> str:
    """Return a candidate's name for messages."""
    return f"{one['precision']} at batch {one['batch']}"


def _ratio(one, other):
    return paired.speed_ratio(one["rounds"], other["rounds"])


def _preference(one):
    """Return the sort key that decides between candidates if none is known to be better."""
    return one["quantized"], one["lost"], one["batch"]


def _behind(one, winner):
    """Return why `_preference` puts a candidate behind another one."""
    reasons = "is quantized", "loses more top-1 points", "has a larger batch"
    pairs = zip(reasons, _preference(one), _preference(winner))
    return next((reason for reason, own, other in pairs if own > other), "stands later in config.yaml")


def _verdict(one, winner, reason, objective, budget):
    loss = f"loses {one['lost']:.2f} top-1 points on the select split, the budget is {budget:.2f}"
    doubt = "" if one["stable"] or not one["paired"] else UNSTABLE
    if one is winner:
        chosen = f"chosen: {reason}" if one["within_budget"] else f"chosen, though none is within the budget: {loss}"
        return chosen + doubt
    if one["not_offered"] or not one["within_budget"]:
        return one["not_offered"] or loss
    if one["within_limit"] is False:
        return f"takes {one['latency_ms']['p99']:.3f} ms at p99, the limit is {objective.limit_ms:g} ms{doubt}"
    level = ": which is better is not known" if paired.is_level(one["paired"]) else ""
    metric = METRICS[objective.metric]
    return f"{_text(one['paired'], metric)} {metric.link} {name(winner)}{level}{doubt}"


def _too_slow(several, able, objective):
    """Return which candidate comes nearest to a limit that none keeps to, by how much, and the remedies."""
    nearest = min(able, key=lambda one: one["latency_ms"]["p99"])
    p99, remedies = nearest["latency_ms"]["p99"], ["raise N"]
    if nearest["batch"] > 1:
        remedies.append(f"give the target a batch below {nearest['batch']}")
    lossy = [one for one in several if one["within_limit"] and not one["within_budget"]]
    remedies += [f"raise the budget ({name(one)} keeps to it and loses {one['lost']:.2f} points)" for one in lossy[:1]]
    doubt = "" if nearest["stable"] else ", by a timing that is not stable"
    return (
        f"{objective.text}: no candidate within the budget keeps to it: {name(nearest)} comes nearest with "
        f"{p99:.3f} ms, {p99 - objective.limit_ms:.3f} ms too many{doubt}: {', or '.join(remedies)}"
    )


def _text(ratio, metric):
    return f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) {metric.over}"
