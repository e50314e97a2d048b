"""Write the explicit Q/DQ graph: the clean graph of the (retrained) weights with a Q/DQ pair for each range."""

import json

from core import resolved
from core.command import Command, Job, log


def run(args: Job) -> None:
    from graph import attention_codes, onnx_io, passes, qdq
    from planning import plan
    from quantization import clean_graph

    before, after = passes.around_pairs(args.passes)
    clean, amax = clean_graph.build(args, before, args.placement, args.images)
    passes.apply(clean.copy(), after)  # their proof is on the clean graph: in a quantized one a rounding may flip
    excluded = plan.modules(plan.read(args.plan)) if args.plan else ()
    kinds = (args.activations, args.probabilities)
    quantized = qdq.insert(clean, amax, args.placement, excluded, *kinds, args.chained)
    if args.chained:
        attention_codes.take_codes(quantized, amax, args.placement, excluded)
    quantized = passes.transform(quantized, after)
    onnx_io.save(quantized, args.quantized)
    pairs = sum(node.op == "QuantizeLinear" for node in quantized.nodes)
    log.info("%d nodes, %d Q/DQ pairs", onnx_io.count(quantized), pairs)


def command() -> Command:
    tools = ("torch", "timm", "nvidia-modelopt", "onnx", "onnx-graphsurgeon", "onnxruntime")
    c = Command(__file__, __doc__, tools=tools)
    c.input("--checkpoint").input("--qat", required=False).input("--calibration")
    c.input("--images", help=".u8 of a split, on which folding is checked")
    c.input("--plan", nargs="?", required=False, help="plan of nodes that are not quantized")
    c.model(resolved.VISION).param("--classes", type=int, required=True)
    c.json_param("--passes", help="surgeon passes, in order")
    c.json_param("--placement", help="kinds of nodes with quantized inputs")
    for name in ("--activations", "--probabilities"):
        c.param(name, default="int8", help="type of their codes: int8 or uint8")
    c.param("--chained", type=json.loads, default=False, help="JSON: whether layers hand INT8 to each other")
    return c.output("--quantized")


if __name__ == "__main__":
    command().run(run)
