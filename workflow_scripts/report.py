"""Write the report: accuracy, speed and mixed-precision plans of all results on one self-contained HTML page."""

from pathlib import Path

from core.command import Command, Job


def run(args: Job) -> None:
    from reporting import page

    Path(args.report).write_text(page.render(args.results, args.models, args.plans, args.bisects), encoding="utf-8")


def command() -> Command:
    c = Command(__file__, __doc__, tools=("jinja2",))
    for name in ("--results", "--plans", "--bisects"):
        c.input(name, nargs="*", default=[])
    c.json_param("--models", help="JSON: published ImageNet top-1 by model")
    return c.output("--report")


if __name__ == "__main__":
    command().run(run)
