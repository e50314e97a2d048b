"""Draw the layers of an engine along time, from its profile."""

from pathlib import Path

from core.command import Command, Job
from core.files import UserError, read_json


def run(args: Job) -> None:
    from reporting import timeline

    profiles = read_json(args.profile).get("profile")
    if not profiles:
        raise UserError(f"{args.profile} is no profile: delete it and run again")
    Path(args.timeline).write_text(timeline.draw(profiles, args.title), encoding="utf-8")


def command() -> Command:
    c = Command(__file__, __doc__).input("--profile", help="profile_engine.py's").param("--title", required=True)
    return c.output("--timeline", help="SVG to write")


if __name__ == "__main__":
    command().run(run)
