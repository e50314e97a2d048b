"""Write the explicit Q/DQ graph: the clean graph of the (retrained) weights, with a Q/DQ pair for each range."""

from cli import Command, log


def produce(args):
    from files import read_json
    from graph import onnxio, passes, qdq
    from model import checkpoint, deploy, export, zoo
    from quantization import recipe
    from quantization.amax import split_state

    model = deploy.fold(checkpoint.load_into(zoo.create(args.model, args.classes), args.checkpoint))
    calibration = read_json(args.calibration)
    amax = calibration["amax"]
    if args.qat:
        weights, amax = split_state(checkpoint.read(args.qat))
        checkpoint.load_state(model, weights, args.qat)
    else:
        recipe.adjust(model, calibration, lambda name: kind_of(model.get_submodule(name)) in args.placement)
    exported = onnxio.imported(export.to_onnx(model, args.model["size"]))
    clean = passes.apply(exported, args.passes)
    quantized = qdq.insert(clean, amax, args.placement)
    onnxio.save(quantized, args.quantized)
    log.info("%d nodes, %d Q/DQ pairs", onnxio.count(quantized), sum(n.op == "QuantizeLinear" for n in quantized.nodes))


def kind_of(module):
    """Return the kind, as placements name it, of a module that has a weight."""
    import torch

    return "conv" if isinstance(module, torch.nn.Conv2d) else "linear"


def command():
    tools = ("torch", "timm", "nvidia-modelopt", "onnx", "onnx-graphsurgeon", "onnxruntime")
    c = Command(__file__, __doc__, tools=tools)
    c.input("--checkpoint").input("--qat", required=False).input("--calibration")
    c.recipe("--model", help="JSON row of `models`").param("--classes", type=int, required=True)
    c.recipe("--passes", help="names, in order").recipe("--placement", help="kinds of nodes with quantized inputs")
    return c.output("--quantized")


if __name__ == "__main__":
    command().run(produce)
