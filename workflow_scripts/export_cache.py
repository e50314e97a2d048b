"""Write a TensorRT calibration cache from calibrated ranges: implicit INT8, for a DLA and for users of older tools.

Its scales are those of the Q/DQ pairs that the class's placement would put on the clean graph's tensors.
"""

from cli import Command, log


def produce(args):
    from files import UserError, read_json, replacing
    from graph import onnxio, qdq
    from model import checkpoint
    from quantization.amax import split_state
    from runtimes import _calibration

    if not args.version:
        raise UserError(
            "the target's TensorRT version is not known here: give it in the target's row (version), or bring "
            "results/targets/ from the target"
        )
    calibration = read_json(args.calibration)
    if calibration.get("scaling"):
        raise UserError(
            f"{args.calibration} is of a scaled network (equalize or smoothing), and a cache is read with the graph as "
            "it was: calibrate without them"
        )
    amax = split_state(checkpoint.read(args.qat))[1] if args.qat else calibration["amax"]
    scales = qdq.activation_scales(onnxio.load(args.clean), amax, args.placement)
    with replacing(args.cache) as partial, open(partial, "w", encoding="ascii") as stream:
        stream.write(_calibration.text(scales, args.version))
    log.info("%d tensors have a scale", len(scales))


def command():
    c = Command(__file__, __doc__, tools=("onnx", "onnx-graphsurgeon"))
    c.input("--clean", help="clean graph").input("--calibration").input("--qat", required=False)
    c.recipe("--placement", help="kinds of nodes with quantized inputs")
    c.param("--version", required=True, help="the target's version of TensorRT")
    return c.output("--cache")


if __name__ == "__main__":
    command().run(produce)
