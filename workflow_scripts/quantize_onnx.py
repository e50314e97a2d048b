"""Write the explicit Q/DQ graph: the clean graph of the (retrained) weights with a Q/DQ pair for each range."""

from core import resolved
from core.command import Command, Job, log


def run(args: Job) -> None:
    from graph import onnx_io, passes, qdq
    from planning import plan
    from quantization import clean_graph

    before, after = passes.around_pairs(args.passes)
    clean, amax = clean_graph.build(args, before, args.placement, args.images)
    passes.apply(clean.copy(), after)  # their proof is on the clean graph: in a quantized one a rounding may flip
    excluded = plan.modules(plan.read(args.plan)) if args.plan else ()
    quantized = qdq.insert(clean, amax, args.placement, excluded, args.activations, args.probabilities)
    quantized = passes.transform(quantized, after)
    onnx_io.save(quantized, args.quantized)
    log.info(
        "%d nodes, %d Q/DQ pairs", onnx_io.count(quantized), sum(n.op == "QuantizeLinear" for n in quantized.nodes)
    )


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
    return c.output("--quantized")


if __name__ == "__main__":
    command().run(run)
