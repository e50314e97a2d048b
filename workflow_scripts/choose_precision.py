"""Choose among a target's engines the fastest that loses no more than the budget and whose timing is stable.

Speed is images/s at the smallest batch that all were timed at, the loss is of top-1 points on the select split, against
PyTorch FP32. The result is the chosen one's, with the verdict on every candidate. Where none qualifies, it is the one
that loses least, the fastest of those, and the result says that it is not within the budget.
"""

from cli import Command, log


def produce(args):
    from assemble_result import check_schema
    from files import read_json, write_json

    results = [read_json(path) for path in args.results]
    candidates = weigh(results, [read_json(path) for path in args.select], args.budget)
    winner = pick(candidates)
    chosen = next(result for result in results if result["precision"] == winner["precision"])
    for candidate in candidates:
        candidate["verdict"] = verdict(candidate, winner, args.budget)
        log.info("%-10s %s", candidate["precision"], candidate["verdict"])
    accuracy = {**chosen["accuracy"], "budget": args.budget, "within_budget": winner["within_budget"]}
    more = {"precision": args.precision, "chosen": winner["precision"], "candidates": candidates, "accuracy": accuracy}
    result = {**chosen, **more}
    check_schema(result)
    write_json(args.result, result)


def weigh(results, scores, budget):
    """Return each candidate's figures; results and scores on the select split are of the same engines, in order.

    Raises UserError where a score is of another engine, or where no batch size was timed on all.
    """
    from files import UserError

    batches = set.intersection(*({entry["batch"] for entry in result["benchmark"]} for result in results))
    if not batches:
        raise UserError("the candidates have no batch size in common: give their target one list of batches")
    for result, score in zip(results, scores):
        if score["engine_sha256"] != result["engine"]["sha256"]:
            raise UserError(
                f"the select split was scored with another engine than {result['engine']['path']}: run again"
            )
    return [candidate(result, score, min(batches), budget) for result, score in zip(results, scores)]


def candidate(result, score, batch, budget):
    """Return a candidate's figures: top1 and lost (top-1 points) are of the select split."""
    from planning.criterion import EPSILON, allowed

    entry = next(entry for entry in result["benchmark"] if entry["batch"] == batch)
    lost = score["fp32_top1"] - score["top1"]
    return {
        "precision": result["precision"],
        "batch": batch,
        "images_per_second": entry["images_per_second"],
        "top1": score["top1"],
        "lost": lost,
        "within_budget": lost <= allowed(budget, score["num_images"]) + EPSILON,
        "stable": entry["stable"],
    }


def pick(candidates):
    """Return the fastest that qualifies, else that which loses least."""
    able = [one for one in candidates if one["within_budget"] and one["stable"]]
    if able:
        return max(able, key=lambda one: one["images_per_second"])
    return min(candidates, key=lambda one: (one["lost"], -one["images_per_second"]))


def verdict(one, winner, budget):
    """Return in words why a candidate was chosen or was not."""
    loss = f"loses {one['lost']:.2f} top-1 points on the select split, the budget is {budget:.2f}"
    if one is winner:
        if not one["within_budget"]:
            return f"chosen, though none is within the budget: {loss}"
        return "chosen: the fastest within the budget" if one["stable"] else "chosen, though no timing is stable"
    if not one["within_budget"]:
        return loss
    if not one["stable"]:
        return "its timing is not stable"
    share = one["images_per_second"] / winner["images_per_second"]
    return f"{share:.2f} times as fast as {winner['precision']}"


def command():
    c = Command(__file__, __doc__)
    c.input("--results", nargs="+", help="of the candidates").input(
        "--select", nargs="+", help="their scores, in order"
    )
    c.param("--precision", required=True).param("--budget", type=float, required=True)
    return c.output("--result")


if __name__ == "__main__":
    command().run(produce)
