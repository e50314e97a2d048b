"""Plan which nodes keep a higher precision, by simulating the lower one and scoring it on the select split.

The recipe is {"compute", "budget", "criterion"?}. The search looks for a plan that meets it; a manual plan is checked
and scored as it is. The nodes are those of the clean graph of the precision's weights.
"""

from __future__ import annotations

from core import resolved
from core.command import Command, Job, log
from core.files import write_json
from data import index


def run(args: Job) -> None:
    from data import cache
    from planning import planner, verify
    from quantization import clean_graph

    row = resolved.read(args.model, resolved.NORMALIZATION)
    select = verify.select_of(args.images, args.index, args.reference, row)
    inputs = planner.Inputs(cache.read(args.calib_images), select)
    graph, amax = clean_graph.build(args, args.graph["passes"], args.graph["placement"], args.calib_images)
    plan = planner.plan(graph, amax, args.graph["placement"], args.recipe, inputs, args.given, args.threads)
    write_json(args.plan, plan)
    log.info("%(nodes_high_precision)d of %(nodes_total)d nodes keep a higher precision", plan)
    text = "top-1 %(top1).2f %% (FP32 %(fp32_top1).2f %%), agreement %(agreement_with_fp32).2f %%"
    log.info(f"{text} of %(num_images)d select images", plan["measured"])
    if not plan["met"]:
        log.warning("no plan meets the criterion %s: this is the best one", plan["criterion"])


def command() -> Command:
    tools = ("torch", "timm", "nvidia-modelopt", "onnx", "onnx-graphsurgeon", "onnxruntime", "numpy")
    c = Command(__file__, __doc__, tools=tools, heavy=True)
    c.input("--checkpoint").input("--qat", nargs="?", required=False).input("--calibration", nargs="?", required=False)
    c.input("--given", foreign=True, nargs="?", required=False, help="manual plan")
    c.input("--calib-images", help=".u8 of the calib split").input("--images", help=".u8 of the select split")
    c.input("--index", content=lambda args: index.relevant(args.index, "select"))
    c.input("--reference", help=".npy of PyTorch FP32 logits of the select split")
    c.model(resolved.VISION).param("--classes", type=int, required=True)
    c.json_param("--graph", help="JSON row of `graphs`: passes, and placement of quantizers")
    c.json_param("--recipe", help="JSON: compute, budget, criterion")
    return c.output("--plan").untracked("--threads", type=int, default=1)


if __name__ == "__main__":
    command().run(run)
