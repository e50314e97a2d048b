"""Put the DLA-fit report's prediction beside what the engine's builder did."""

from core.command import Command, Job, log
from core.files import UserError, read_json, write_json


def run(args: Job) -> None:
    from dla.compare import compare

    described = read_json(args.description)
    if not described.get("dla"):
        raise UserError(f"{args.description} says nothing of a DLA: delete it and run again")
    found = compare(read_json(args.report), described)
    write_json(args.comparison, found)
    log.info("predicted: %d subgraphs; %s", found["predicted"]["subgraphs"], spoken(found))


def spoken(found):
    """Return in words what was built."""
    if found["built"] is None:
        return "its builder told nothing of them"
    count = len(found["built"]["subgraphs"])
    if found["same"]:
        return f"built: the same {count}"
    others = ", ".join(" ... ".join(ends) for ends in found["unexpected"])
    return f"built: {count}, without {found['missing'] or 'none'} of them{' and with ' + others if others else ''}"


def command() -> Command:
    c = Command(__file__, __doc__)
    c.input("--report", help="dla_fit.py's").input("--description", help="build_engine.py's")
    return c.output("--comparison")


if __name__ == "__main__":
    command().run(run)
