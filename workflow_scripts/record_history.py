"""Add a result to the history of its name: results/history/, with the earlier entries that runs have taken down."""

from core import history
from core.command import Command, Job
from core.files import UserError, write_json


def run(args: Job) -> None:
    entries = history.entries_of(args.result)
    if not entries:
        raise UserError(f"{args.result} is not a result: delete it and run again")
    write_json(args.history, {"entries": history.merged(history.saved_entries(args.result), entries)})


def command() -> Command:
    return Command(__file__, __doc__).input("--result").output("--history")


if __name__ == "__main__":
    command().run(run)
