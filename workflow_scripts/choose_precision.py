"""Choose the fastest of a target's engines whose accuracy loss is within the budget.

The loss is in top-1 points on the select split, against PyTorch FP32. Speeds are those of paired_benchmark.py, at the
smallest batch size that all finalists have: a ratio is the median over the rounds, and which of two engines is faster
is known if its interval does not contain 1. Among the engines that may be as fast as the fastest, those that are not
quantized come first, then the one that loses least, then the first in config.yaml. If no engine is within the budget,
the finalists are those that lose least, and the result says so. The output is the chosen engine's result with the
verdict on every candidate.
"""

from __future__ import annotations

from core.command import Command, Job, log
from core.files import UserError, read_json, write_json
from reporting import result_file, result_schema

UNSTABLE = "; its turns were not stable"


def run(args: Job) -> None:
    results = [result_file.current(path) for path in args.results]
    candidates = weigh(results, [read_json(path) for path in args.select], args.budget)
    timed = read_json(args.paired_benchmark)
    check(results, timed)
    winner = choose(candidates, timed, args.budget)
    chosen = next(result for result in results if result["precision"] == winner["precision"])
    for one in candidates:
        log.info("%-10s %s", one["precision"], one["verdict"])
    accuracy = {**chosen["accuracy"], "budget": args.budget, "within_budget": winner["within_budget"]}
    more = {"precision": args.precision, "chosen": winner["precision"], "accuracy": accuracy}
    verdicts = [{key: value for key, value in one.items() if key != "quantized"} for one in candidates]
    result = {**chosen, **more, "candidates": verdicts, "paired_benchmark": timed["paired_benchmark"] or None}
    result_schema.check(result)
    write_json(args.result, result)


def weigh(results: list[dict], scores: list[dict], budget: float) -> list[dict]:
    """Return the figures of each candidate, from its result and its score on the select split, in order.

    Raises UserError if a score is of another engine, or if the candidates have no batch size in common.
    """
    batches = set.intersection(*({entry["batch"] for entry in result["benchmark"]} for result in results))
    if not batches:
        raise UserError("the candidates have no batch size in common: give their target one list of batches")
    for result, score in zip(results, scores):
        if score["engine_sha256"] != result["engine"]["sha256"]:
            raise UserError(
                f"the score on the select split is of another engine than {result['engine']['path']}: run again"
            )
    return [candidate(result, score, min(batches), budget) for result, score in zip(results, scores)]


def check(results: list[dict], timed: dict) -> None:
    """Raise UserError if the engines that were timed in turns are not those of the results."""
    hashes = {result["precision"]: result["engine"]["sha256"] for result in results}
    for engine in [engine for entry in timed["paired_benchmark"] for engine in entry["engines"]]:
        if hashes.get(engine["precision"]) != engine["engine_sha256"]:
            raise UserError(f"{engine['precision']}: another engine was timed in turns than its result has: run again")


def candidate(result: dict, score: dict, batch: int, budget: float) -> dict:
    """Return a candidate's figures; `top1` and `lost` (top-1 points) are of the select split."""
    from planning import criterion

    entry = next(entry for entry in result["benchmark"] if entry["batch"] == batch)
    return {
        "precision": result["precision"],
        "batch": batch,
        "images_per_second": entry["images_per_second"],
        "top1": score["top1"],
        "lost": criterion.lost(score),
        "within_budget": criterion.is_within(score, budget),
        "stable": entry["stable"],
        "quantized": "calibration" in result["provenance"]["recipe"]["precision"],
    }


def choose(candidates: list[dict], timed: dict, budget: float) -> dict:
    """Return the chosen candidate, and add to each `paired`, its speed over the chosen one's, and its `verdict`."""
    able = [one for one in candidates if one["precision"] in timed["finalists"]]
    times, steady = turns_of(timed, able)
    winner, reason = pick(able, times)
    for one in candidates:
        one["paired"] = speed_over(one, winner, times) if one["precision"] in times else None
        one["verdict"] = verdict(one, winner, reason, budget) + ("" if steady or not one["paired"] else UNSTABLE)
    return winner


def turns_of(timed: dict, able: list[dict]) -> tuple[dict[str, list[float]], bool]:
    """Return ({precision: milliseconds of each round}, whether they are stable) at the finalists' smallest batch.

    Raises UserError if they have no batch size in common; a single finalist has no times.
    """
    if len(able) == 1:
        return {}, True
    for entry in timed["paired_benchmark"]:
        if len(entry["engines"]) == len(able):
            return {engine["precision"]: engine["median_ms"] for engine in entry["engines"]}, entry["stable"]
    raise UserError("the candidates have no batch size in common: give their target one list of batches")


def speed_over(one: dict, other: dict, times: dict[str, list[float]]) -> dict:
    """Return {ratio, low, high} of a finalist's speed over another's."""
    from measure import paired

    return paired.speed_ratio(times[one["precision"]], times[other["precision"]])


def pick(able: list[dict], times: dict) -> tuple[dict, str]:
    """Return the preferred one of the finalists that may be as fast as the fastest, and why."""
    from measure import paired

    if len(able) == 1:
        return able[0], "the only one within the budget"
    fastest = max(able, key=lambda one: speed_over(one, able[0], times)["ratio"])
    level = [one for one in able if one is fastest or paired.is_level(speed_over(fastest, one, times))]
    winner = min(level, key=preference)
    if winner is fastest:
        return fastest, "the fastest within the budget"
    ahead = times_as_fast(speed_over(fastest, winner, times))
    return winner, f"{fastest['precision']}, {ahead}, may be no faster and {behind(fastest, winner)}"


def preference(one: dict) -> tuple[bool, float]:
    """Return the sort key that decides between engines if none is known to be faster."""
    return one["quantized"], one["lost"]


def behind(one: dict, winner: dict) -> str:
    """Return why `preference` puts an engine behind another one."""
    reasons = "is quantized", "loses more top-1 points"
    pairs = zip(reasons, preference(one), preference(winner))
    return next((reason for reason, own, other in pairs if own > other), "stands later in config.yaml")


def verdict(one: dict, winner: dict, reason: str, budget: float) -> str:
    """Return why a candidate was chosen or was not."""
    from measure import paired

    loss = f"loses {one['lost']:.2f} top-1 points on the select split, the budget is {budget:.2f}"
    if one is winner:
        return f"chosen: {reason}" if one["within_budget"] else f"chosen, though none is within the budget: {loss}"
    if not one["within_budget"]:
        return loss
    level = ": which is faster is not known" if paired.is_level(one["paired"]) else ""
    return f"{times_as_fast(one['paired'])} as {winner['precision']}{level}"


def times_as_fast(ratio: dict) -> str:
    """Return a speed ratio and its interval as a text."""
    return f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) times as fast"


def command() -> Command:
    c = Command(__file__, __doc__)
    c.input("--results", nargs="+", help="of the candidates").input(
        "--select", nargs="+", help="their scores, in order"
    )
    c.input("--paired-benchmark", help="the finalists, timed in turns")
    c.param("--precision", required=True).param("--budget", type=float, required=True)
    return c.output("--result")


if __name__ == "__main__":
    command().run(run)
