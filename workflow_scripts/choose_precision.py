"""Choose among a target's engines the fastest that loses no more than the budget, as they were timed in turns.

The loss is of top-1 points on the select split, against PyTorch FP32. Speeds are compared as paired_benchmark.py timed
the finalists, at the smallest batch that all of them have: a ratio is the median over the rounds, and which of two is
faster is known where its interval does not contain 1. Of the engines that may be as fast as the fastest, one that is
not quantized is taken before one that is, then the one that loses least, then the first in config.yaml. Where none is
within the budget, the finalists are those that lose least, and the result says so. The result is the chosen one's, with
the verdict on every candidate.
"""

from core.command import Command, Job, log
from core.files import UserError, read_json, write_json
from reporting import result_file, result_schema

UNSTEADY = "; its turns were not stable"


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
    told = [{key: value for key, value in one.items() if key != "quantized"} for one in candidates]
    result = {**chosen, **more, "candidates": told, "paired_benchmark": timed["paired_benchmark"] or None}
    result_schema.check(result)
    write_json(args.result, result)


def weigh(results, scores, budget):
    """Return each candidate's figures; results and scores on the select split are of the same engines, in order.

    Raises UserError where a score is of another engine, or where no batch size was timed on all.
    """
    batches = set.intersection(*({entry["batch"] for entry in result["benchmark"]} for result in results))
    if not batches:
        raise UserError("the candidates have no batch size in common: give their target one list of batches")
    for result, score in zip(results, scores):
        if score["engine_sha256"] != result["engine"]["sha256"]:
            raise UserError(
                f"the select split was scored with another engine than {result['engine']['path']}: run again"
            )
    return [candidate(result, score, min(batches), budget) for result, score in zip(results, scores)]


def check(results, timed):
    """Raise UserError where engines that were timed in turns are not those of the results."""
    hashes = {result["precision"]: result["engine"]["sha256"] for result in results}
    for engine in [engine for entry in timed["paired_benchmark"] for engine in entry["engines"]]:
        if hashes.get(engine["precision"]) != engine["engine_sha256"]:
            raise UserError(f"{engine['precision']}: another engine was timed in turns than its result has: run again")


def candidate(result, score, batch, budget):
    """Return a candidate's figures: top1 and lost (top-1 points) are of the select split."""
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


def choose(candidates, timed, budget):
    """Return the chosen candidate; all get `paired`, their speed over its own, and their `verdict`."""
    able = [one for one in candidates if one["precision"] in timed["finalists"]]
    times, steady = turns_of(timed, able)
    winner, reason = pick(able, times)
    for one in candidates:
        one["paired"] = speed_over(one, winner, times)
        one["verdict"] = verdict(one, winner, reason, budget) + ("" if steady or not one["paired"] else UNSTEADY)
    return winner


def turns_of(timed, able):
    """Return ({precision: milliseconds of each round}, whether they are stable) at the finalists' smallest batch.

    Raises UserError where they have no batch in common; one finalist alone has no times.
    """
    if len(able) == 1:
        return {}, True
    for entry in timed["paired_benchmark"]:
        if len(entry["engines"]) == len(able):
            return {engine["precision"]: engine["median_ms"] for engine in entry["engines"]}, entry["stable"]
    raise UserError("the candidates have no batch size in common: give their target one list of batches")


def speed_over(one, other, times):
    """Return {ratio, low, high} of a candidate's speed over another's, or None where they were not timed in turns."""
    from measure import paired

    names = one["precision"], other["precision"]
    return paired.speed_ratio(*(times[name] for name in names)) if set(names) <= set(times) else None


def pick(able, times):
    """Return (the chosen finalist, why): of those that may be as fast as the fastest, the one to prefer."""
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


def preference(one):
    """Return what decides between engines of which none is known to be faster, ascending; else their order decides."""
    return one["quantized"], one["lost"]


def behind(one, winner):
    """Return in words in what an engine is behind another one by `preference`."""
    reasons = "is quantized", "loses more top-1 points"
    pairs = zip(reasons, preference(one), preference(winner))
    return next((reason for reason, own, other in pairs if own > other), "stands later in config.yaml")


def verdict(one, winner, reason, budget):
    """Return in words why a candidate was chosen or was not."""
    from measure import paired

    loss = f"loses {one['lost']:.2f} top-1 points on the select split, the budget is {budget:.2f}"
    if one is winner:
        return f"chosen: {reason}" if one["within_budget"] else f"chosen, though none is within the budget: {loss}"
    if not one["within_budget"]:
        return loss
    level = ": which is faster is not known" if paired.is_level(one["paired"]) else ""
    return f"{times_as_fast(one['paired'])} as {winner['precision']}{level}"


def times_as_fast(ratio):
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
