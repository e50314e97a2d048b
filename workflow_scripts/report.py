"""Write the report: which engine to run and why, with all measurements, on one self-contained HTML page."""

from pathlib import Path

from core.command import Command, Job

EVIDENCE = ("histories", "plans", "bisects", "descriptions", "profiles", "timelines", "calibrations", "pictures")


def run(args: Job) -> None:
    from reporting import page

    evidence = {name: getattr(args, name) for name in EVIDENCE}
    results = [*args.results, *sorted(args.carried)]
    Path(args.report).write_text(page.render(results, args.models, **evidence), encoding="utf-8")


def command() -> Command:
    c = Command(__file__, __doc__, tools=("jinja2", "vl-convert-python"))
    for name in ("results", *EVIDENCE):
        c.input(f"--{name}", nargs="*", default=[])
    c.json_param("--models", help="JSON: published ImageNet top-1 by model")
    c.json_param("--carried", help="JSON: {path: SHA-256} of results that were made on other machines")
    return c.output("--report")


if __name__ == "__main__":
    command().run(run)
