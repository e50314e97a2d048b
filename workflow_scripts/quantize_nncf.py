"""Write the explicit Q/DQ graph of a precision that NNCF quantizes: the cleaned graph with its pairs."""

from core import resolved
from core.command import Command, Job, log


def run(args: Job) -> None:
    from data import cache
    from graph import onnx_io, passes
    from quantization import nncf

    row, pixels = resolved.read(args.model, resolved.NORMALIZATION), cache.read(args.images)
    images = pixels[: args.recipe["images"]]
    clean = passes.apply(onnx_io.load(args.onnx), passes.around_pairs(args.passes)[0])
    quantized = nncf.quantize(clean, images, row, args.recipe.get("model_type"))
    onnx_io.save(quantized, args.quantized)
    pairs = sum(node.op == "DequantizeLinear" for node in quantized.nodes)
    log.info("%d nodes, %d of them DequantizeLinear, over %d images", onnx_io.count(quantized), pairs, len(images))


def command() -> Command:
    tools = ("nncf", "openvino", "onnx", "onnx-graphsurgeon", "onnxruntime", "numpy")
    c = Command(__file__, __doc__, tools=tools, heavy=True)
    c.input("--onnx").input("--images", help="preprocessed calib split (.u8)").model(resolved.NORMALIZATION)
    c.json_param("--passes", help="surgeon passes, in order; those behind `quantize` are left out")
    c.json_param("--recipe", help="JSON of the precision's `calibration` row: images, model_type")
    return c.output("--quantized")


if __name__ == "__main__":
    command().run(run)
