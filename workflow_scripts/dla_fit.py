"""Predict which nodes of a network a DLA runs, and whether that pays, before anything is built.

The report is of the clean graph, with the placement that the builder is given; `exported` is a summary of the graph
before surgery, with TensorRT's own placement. The recipe is {"batch", "compute", "generation", "version"}.
"""

from pathlib import Path

from core.command import Command, Job, log
from core.files import UserError, write_json


def run(args: Job) -> None:
    from dla import fit, rules
    from graph import onnx_io
    from reporting import dla

    if not args.recipe["version"]:
        raise UserError(f"the TensorRT version of {args.target} is unknown: give it in the target's row (version)")
    known = rules.load(args.rules)
    report = fit.report(onnx_io.load(args.clean), known, args.recipe)
    before = fit.report(onnx_io.load(args.onnx), known, args.recipe, alone=True)
    names = {key: getattr(args, key) for key in ("model", "precision", "target")}
    write_json(args.report, {**names, **report, "exported": fit.summary(before)})
    Path(args.picture).write_text(dla.render(names, report, before), encoding="utf-8")
    log.info("exported graph, placed by TensorRT itself: %s", before["prediction"]["sentence"])
    log.info("%s", report["prediction"]["sentence"])


def command() -> Command:
    c = Command(__file__, __doc__, tools=("onnx", "onnx-graphsurgeon", "onnxruntime", "jinja2"))
    c.input("--clean", help="graph that engines are built from").input("--onnx", help="graph as exported")
    c.input("--rules", foreign=True, help="layers that DLAs support (.yaml)").json_param("--recipe", help="JSON")
    for name in ("model", "precision", "target"):
        c.param(f"--{name}", required=True)
    return c.output("--report").output("--picture")


if __name__ == "__main__":
    command().run(run)
