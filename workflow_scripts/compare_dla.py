"""Compare the DLA-fit report's prediction with the engine that was built."""

from core.command import Command, Job, log
from core.files import UserError, read_json, write_json


def run(args: Job) -> None:
    from dla.compare import compare

    described = read_json(args.description)
    if not described.get("dla"):
        raise UserError(f"{args.description} has no DLA: delete it and run again")
    comparison = compare(read_json(args.report), described)
    write_json(args.comparison, comparison)
    log.info("predicted: %d subgraphs; %s", comparison["predicted"]["subgraphs"], format_built(comparison))


def format_built(comparison: dict) -> str:
    """Return a text on the subgraphs that were built."""
    if comparison["built"] is None:
        return "the builder does not report its own"
    count = len(comparison["built"]["subgraphs"])
    if comparison["same"]:
        return f"built: the same {count}"
    others = ", ".join(" ... ".join(ends) for ends in comparison["unexpected"])
    return f"built: {count}, without {comparison['missing'] or 'none'} of them{' and with ' + others if others else ''}"


def command() -> Command:
    c = Command(__file__, __doc__)
    c.input("--report", help="dla_fit.py's").input("--description", help="build_engine.py's")
    return c.output("--comparison")


if __name__ == "__main__":
    command().run(run)
