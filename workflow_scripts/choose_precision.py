"""Choose among a target's engines and their batch sizes by an objective, within a budget of accuracy.

The objective is throughput, latency, or throughput within N ms at p99. The loss is in top-1 points on the select split,
against PyTorch FP32. Timings are those of paired_benchmark.py. Among the candidates that may be as good as the best,
those that are not quantized come first, then the one that loses least, then the smaller batch, then the first in
config.yaml (reporting/choice.py). If no engine is within the budget, the finalists are those that lose least, and the
result says so. The output is the chosen engine's result with the verdict on every candidate.
"""

from __future__ import annotations

from core import objective
from core.command import Command, Job, log
from core.files import UserError, read_json
from reporting import choice, comparison, result_file

TOO_LITTLE = "not offered: only {:.0%} of its multiply-accumulates are INT8"


def run(args: Job) -> None:
    results = [result_file.current(path) for path in args.results]
    scores, timed = [read_json(path) for path in args.select], read_json(args.paired_benchmark)
    wanted = objective.parse(args.objective)
    check(results, scores, timed)
    pairs = zip(results, [score_of(*pair, args.budget) for pair in zip(results, scores)])
    candidates = [one for result, score in pairs for one in choice.candidates(result, score, timed, wanted)]
    try:
        winner = choice.choose(candidates, timed["finalists"], wanted, args.budget)
    except UserError as problem:
        raise UserError(f"{args.precision}: {problem}") from None
    for one in candidates:
        log.info("%-10s batch %-3d %s", one["precision"], one["batch"], one["verdict"])
    chosen = next(result for result in results if result["precision"] == winner["precision"])
    accuracy = {**chosen["accuracy"], "budget": args.budget, "within_budget": winner["within_budget"]}
    more = {"precision": args.precision, "chosen": winner["precision"], "chosen_batch": winner["batch"]}
    more.update(objective=wanted.text, accuracy=accuracy, candidates=[choice.public(one) for one in candidates])
    result = {**chosen, **more, "paired_benchmark": timed["paired_benchmark"] or None}
    result_file.write(args.result, result)


def check(results: list[dict], scores: list[dict], timed: dict) -> None:
    """Raise UserError if a score, or an engine that was timed in turns, is of another engine than its result."""
    from planning import criterion

    criterion.check_engines(scores, [(result["engine"]["path"], result["engine"]["sha256"]) for result in results])
    hashes = {result["precision"]: result["engine"]["sha256"] for result in results}
    for engine in [engine for entry in timed["paired_benchmark"] for engine in entry["engines"]]:
        if hashes.get(engine["precision"]) != engine["engine_sha256"]:
            raise UserError(f"{engine['precision']}: another engine was timed in turns than its result has: run again")


def score_of(result: dict, score: dict, budget: float) -> dict:
    """Return what a candidate has of its score on the select split; `lost` is in top-1 points."""
    from planning import criterion

    share = result["engine"]["int8_share_of_macs"]
    return {
        "top1": score["top1"],
        "lost": criterion.lost(score),
        "within_budget": criterion.is_within(score, budget),
        "quantized": "calibration" in result["provenance"]["recipe"]["precision"],
        "not_offered": TOO_LITTLE.format(share) if comparison.is_barely_int8(result) else None,
    }


def command() -> Command:
    c = Command(__file__, __doc__)
    c.input("--results", nargs="+", help="of the candidates")
    c.input("--select", nargs="+", help="their scores, in order")
    c.input("--paired-benchmark", help="the finalists, timed in turns")
    c.param("--precision", required=True).param("--budget", type=float, required=True)
    c.param("--objective", required=True, help=objective.FORMS)
    return c.output("--result")


if __name__ == "__main__":
    command().run(run)
