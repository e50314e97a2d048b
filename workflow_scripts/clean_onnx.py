"""Clean an ONNX graph with surgeon passes, each of which proves that the logits stay the same."""

from core.command import Command, Job


def run(args: Job) -> None:
    from graph import onnx_io, passes

    onnx_io.save(passes.apply(onnx_io.load(args.onnx), args.passes), args.clean)


def command() -> Command:
    c = Command(__file__, __doc__, tools=("onnx", "onnx-graphsurgeon", "onnxruntime"))
    return c.input("--onnx").json_param("--passes", help="names, in order").output("--clean")


if __name__ == "__main__":
    command().run(run)
