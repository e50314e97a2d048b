"""What the runtimes of the TensorRT family share: a logger, parsing, optimization profiles, layers and their types.

Each function takes the library (`trt`) as an argument, because the family's members have one interface under several
names. Features are looked for in the module, never guessed from its version.
"""

import functools
import re

from cli import log
from files import UserError
from runtimes import PRECISIONS

TYPES = {
    **{"Float": "fp32", "FP32": "fp32", "Half": "fp16", "FP16": "fp16", "BFloat16": "bf16", "BF16": "bf16"},
    **{
        "Int8": "int8",
        "INT8": "int8",
        "UInt8": "uint8",
        "FP8": "fp8",
        "Int32": "int32",
        "Int64": "int64",
        "Bool": "bool",
    },
}


@functools.lru_cache(maxsize=None)
def logger_of(trt):
    """Return the one logger of a library (it keeps the first it is given): warnings to the log, all in `messages`."""

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.messages = []

        def log(self, severity, text):
            self.messages.append((severity, text))
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR, trt.ILogger.WARNING):
                log.info("%s: %s", trt.__name__, text)

        def take(self, *severities):
            """Return the texts since the last call of some severities (none named: all) and forget them."""
            texts = [text for severity, text in self.messages if not severities or severity in severities]
            self.messages = []
            return texts

    return Logger()


def parse(trt, builder, path, flags):
    """Return (network, parser) of an ONNX file; raise UserError naming the first node that does not parse.

    The parser owns the weights: keep it until the engine is built.
    """
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger_of(trt))
    if not parser.parse_from_file(str(path)):
        raise UserError(f"{path}: {_parser_error(parser)}")
    return network, parser


def _parser_error(parser):
    if not parser.num_errors:
        return "not an ONNX graph that TensorRT can read"
    error = parser.get_error(0)
    where = [getattr(error, name)() for name in ("node_name", "node_operator") if hasattr(error, name)]
    node = f"node {where[0]} ({where[1]})" if len(where) == 2 and where[1] else f"node {error.node()}"
    return f"TensorRT cannot take {node}: {' '.join(error.desc().split())}"


def add_profile(builder, config, network, batches):
    """Add one optimization profile from batch 1 to the largest, tuned for that; raise UserError for a fixed batch."""
    profile, most = builder.create_optimization_profile(), max(batches)
    for number in range(network.num_inputs):
        entry = network.get_input(number)
        rest = list(entry.shape)[1:]
        if entry.shape[0] != -1:
            raise UserError(f"input {entry.name} has a fixed batch of {entry.shape[0]}: export it with a dynamic one")
        profile.set_shape(entry.name, [1] + rest, [most] + rest, [most] + rest)
    config.add_optimization_profile(profile)


def layer(name, kind, inputs, outputs):
    """Return a layer's row. Its precision is the narrowest type that it reads, constants apart.

    A layer that only quantizes therefore counts as what it reads; one that reads no number of PRECISIONS is listed
    with the type of its first output.
    """
    found = [TYPES.get(kind_of, kind_of) for kind_of in inputs]
    known = [name_of for name_of in PRECISIONS if name_of in found]
    others = found + [TYPES.get(kind_of, kind_of) for kind_of in outputs]
    return {"name": name, "type": kind, "precision": (known or others or ["none"])[0]}


LAYER = re.compile(
    r"^Name: (.*?), LayerType: (.*?), Inputs: \[(.*?)\], Constants: \[(.*?)\], Outputs: \[([^]]*)\], Tactic", re.M
)
DATATYPE = re.compile(r"Datatype: (\w+)")


def layers_of_log(texts):
    """Return the layers that a verbose builder says its engine has, or None where it says nothing of the kind.

    texts: log messages. It is the same text as the engine inspector's, which needs a loaded engine and so a GPU.
    """
    found = [match for text in texts if "LayerType: " in text for match in LAYER.finditer(_flat(text))]
    rows = [(m.group(1), m.group(2), DATATYPE.findall(m.group(3)), DATATYPE.findall(m.group(5))) for m in found]
    return [layer(*row) for row in rows] or None


def _flat(text):
    """Return the text with the brackets of shapes as parentheses, so that a list ends at its own bracket."""
    return re.sub(r"\[([-\d,x]+)\]", r"(\1)", text)
