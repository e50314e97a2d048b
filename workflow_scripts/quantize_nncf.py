"""Write the explicit Q/DQ graph of a precision that NNCF quantizes: the cleaned graph with its pairs."""

from core import resolved
from core.command import Command, Job, log


def run(args: Job) -> None:
    from data import cache, preprocess
    from graph import nncf, onnx_io, passes

    row, pixels = resolved.read(args.model, resolved.NORMALIZATION), cache.read(args.images)
    count = min(args.recipe["images"], len(pixels))
    clean = passes.apply(onnx_io.load(args.onnx), passes.around_pairs(args.passes)[0])

    def image(number):
        return preprocess.normalize(pixels[number : number + 1], row["mean"], row["std"])

    quantized = nncf.quantize(clean, count, image, args.recipe.get("model_type"))
    onnx_io.save(quantized, args.quantized)
    pairs = sum(node.op == "DequantizeLinear" for node in quantized.nodes)
    log.info("%d nodes, %d of them DequantizeLinear, over %d images", onnx_io.count(quantized), pairs, count)


def command() -> Command:
    tools = ("nncf", "openvino", "onnx", "onnx-graphsurgeon", "onnxruntime", "numpy")
    c = Command(__file__, __doc__, tools=tools, heavy=True)
    c.input("--onnx").input("--images", help="preprocessed calib split (.u8)").model(resolved.NORMALIZATION)
    c.json_param("--passes", help="surgeon passes, in order; those behind `quantize` are left out")
    c.json_param("--recipe", help="JSON of the precision's `calibration` row: images, model_type")
    return c.output("--quantized")


if __name__ == "__main__":
    command().run(run)
