"""Write the strongly typed graph that TensorRT-RTX and TensorRT 11 build from: float types by Casts, INT8 by Q/DQ."""

from cli import Command, log


def produce(args):
    from graph import onnxio, typed

    kind = args.recipe.get("high_precision") or args.recipe["compute"]
    graph = typed.cast(onnxio.load(args.onnx), kind)
    onnxio.save(graph, args.typed)
    log.info("%d nodes in %s", onnxio.count(graph), kind)


def command():
    c = Command(__file__, __doc__, tools=("onnx", "onnx-graphsurgeon"))
    c.input("--onnx", help="clean or quantized graph")
    c.recipe("--recipe", help="JSON: compute, and high_precision for what is not INT8")
    return c.output("--typed")


if __name__ == "__main__":
    command().run(produce)
