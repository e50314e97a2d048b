"""Draw the layers of an engine along time, from its profile."""

from pathlib import Path

from core.command import Command, Job
from core.files import UserError, read_json


def run(args: Job) -> None:
    from reporting import timeline

    profiles = read_json(args.profile).get("profile")
    if not profiles:
        raise UserError(f"{args.profile} is not a profile: delete it and run again")
    Path(args.timeline).write_text(timeline.draw(profiles, args.title), encoding="utf-8")


def command() -> Command:
    c = Command(__file__, __doc__, tools=("jinja2",)).param("--title", required=True)
    return c.input("--profile", help="JSON of profile_engine.py").output("--timeline", help="SVG")


if __name__ == "__main__":
    command().run(run)
