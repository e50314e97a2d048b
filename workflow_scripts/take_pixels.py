"""Make an ONNX graph take decoded pixels, uint8 [B, H, W, 3]: the normalization becomes its first nodes."""

from core import resolved
from core.command import Command, Job


def run(args: Job) -> None:
    from data import preprocess
    from graph import onnx_io, pixels

    model, graph = resolved.read(args.model, resolved.NORMALIZATION), onnx_io.load(args.onnx)
    onnx_io.save(pixels.take(graph, model["mean"], model["std"], preprocess.normalize, args.runtime), args.pixels)


def command() -> Command:
    c = Command(__file__, __doc__, tools=("onnx", "onnx-graphsurgeon", "onnxruntime", "numpy"))
    c.input("--onnx", help="graph that takes normalized images").model(resolved.NORMALIZATION)
    return c.param("--runtime", required=True, help="a file of runtimes/").output("--pixels")


if __name__ == "__main__":
    command().run(run)
