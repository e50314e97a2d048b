"""Write the strongly typed graph that TensorRT-RTX and TensorRT 11 need: float types by Casts, INT8 by Q/DQ."""

from core.command import Command, Job, log


def run(args: Job) -> None:
    from graph import onnx_io, strongly_typed
    from planning import plan

    kind, graph = args.recipe.get("high_precision") or args.recipe["compute"], onnx_io.load(args.onnx)
    fp32_nodes = plan.names(plan.read(args.plan), "fp32") if args.plan else ()
    plan.check_names(sorted(fp32_nodes), {node.name for node in graph.nodes}, args.plan)
    graph = strongly_typed.cast(graph, kind, fp32_nodes)
    onnx_io.save(graph, args.typed)
    casts = sum(node.op == "Cast" for node in graph.nodes)
    log.info("%d nodes, %d of them Casts, in %s; %d in fp32", onnx_io.count(graph), casts, kind, len(fp32_nodes))


def command() -> Command:
    c = Command(__file__, __doc__, tools=("onnx", "onnx-graphsurgeon"))
    c.input("--onnx", help="clean or quantized graph")
    c.input("--plan", nargs="?", required=False, help="plan of nodes that stay in FP32")
    c.json_param("--recipe", help="JSON: compute, and high_precision for what is not INT8")
    return c.output("--typed")


if __name__ == "__main__":
    command().run(run)
