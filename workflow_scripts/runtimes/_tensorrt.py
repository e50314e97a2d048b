"""What the runtimes of the TensorRT family share: a logger, parsing, optimization profiles, layers and their types.

Each function takes the library (`trt`) as an argument, because the family's members have one interface under several
names. Features are looked for in the module, never guessed from its version.
"""

import functools
import json
import re
import time
from pathlib import Path

from core.command import log
from core.files import UserError
from runtimes import PRECISIONS, _cuda, _dla, _plugins

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
FLAGS = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}  # builder flags of weakly typed networks, up to 10.x
SILENCE = 20  # seconds between lines about a build's progress
# 8.5's calls by name look for the first profile's binding, find the right one themselves, and warn at every query.
HARMLESS = re.compile(r"bindingIndex \d+ is not in profile \d+\. Using bindingIndex = \d+ instead")
NOISE = re.compile(r"^\[?\w*\.cpp::\w+::\d+\]?\s*|\s+")  # source positions in the library's messages


@functools.lru_cache(maxsize=None)
def logger_of(trt):
    """Return the one logger of a library (it keeps the first it is given).

    Warnings and errors go to the log and to `messages`, each text once until these are taken, with what the builder
    says of its layers. The builder's other messages, hundreds of thousands of them, are only counted, and a line now
    and then tells how far it is.
    """
    warning = int(trt.ILogger.WARNING)

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.messages = []
            self.restart()

        def restart(self):
            self.start = self.told = time.monotonic()
            self.timed = 0

        def log(self, severity, text):
            if int(severity) <= warning:
                if (severity, text) not in self.messages and not HARMLESS.search(text):
                    log.info("%s: %s", trt.__name__, text)
                    self.messages.append((severity, text))
            elif "LayerType: " in text or _dla.tells(text):
                self.messages.append((severity, text))
            elif "Timing Runner" in text:
                self.tell()

        def tell(self):
            self.timed += 1
            now = time.monotonic()
            if now - self.told > SILENCE:
                self.told = now
                log.info("building: %.0f s, %d groups of kernels timed", now - self.start, self.timed)

        def take(self, *severities):
            """Return the texts since the last call of some severities (none named: all) and forget them."""
            texts = [text for severity, text in self.messages if not severities or severity in severities]
            self.messages = []
            return texts

        def errors(self):
            """Return the errors since the last call as one line, and forget them."""
            texts = self.take(trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            return "; ".join(NOISE.sub(" ", text).strip() for text in texts[:3]) or "it gave no reason"

    return Logger()


def need_gpu():
    """Return the GPU's facts; raise UserError where there is none that CUDA can use."""
    try:
        return {**_cuda.device(), **_cuda.versions()}
    except UserError as error:
        raise UserError(f"TensorRT needs an NVIDIA GPU and its driver, and CUDA finds none here: {error}") from None


def deserialize(trt, path):
    """Return the engine in a file; raise UserError where it is damaged, or of another version or device."""
    logger, gpu = logger_of(trt), need_gpu()
    logger.take()
    data = Path(path).read_bytes()
    engine = trt.Runtime(logger).deserialize_cuda_engine(data) if data else None
    if engine is None:
        reason = logger.errors() if data else "it is empty"
        here = f"{trt.__name__} {trt.__version__} on {gpu['name']}"
        remedy = _plugins.remedy(reason, "delete it and run again")
        raise UserError(f"{path} is no engine that {here} can run ({reason}): {remedy}")
    return engine


def is_strongly_typed(trt):
    """Return whether a library takes types from the graph alone: TensorRT 11 and later, and RTX."""
    return not hasattr(trt.BuilderFlag, "FP16")


def network_flags(trt):
    """Return the flags that a library's networks need."""
    flags, known = 0, trt.NetworkDefinitionCreationFlag
    if is_strongly_typed(trt) and hasattr(known, "STRONGLY_TYPED"):
        flags |= 1 << int(known.STRONGLY_TYPED)
    if hasattr(known, "EXPLICIT_BATCH"):
        flags |= 1 << int(known.EXPLICIT_BATCH)
    return flags


def parse(trt, builder, path):
    """Return (network, parser) of an ONNX file; raise UserError naming the first node that does not parse.

    The parser owns the weights: keep it until the engine is built.
    """
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger_of(trt))
    if not _parsed(trt, parser, path):
        raise UserError(f"{path}: {_parser_error(parser)}")
    return network, parser


def _parsed(trt, parser, path):
    """Return whether a file parses; parsers of 10 and later would take a node's body before the plugin for it."""
    if _plugins.is_named() and hasattr(trt, "IPluginV3"):
        return parser.parse(_plugins.without_bodies(Path(path).read_bytes()))
    return parser.parse_from_file(str(path))


def _parser_error(parser):
    if not parser.num_errors:
        return "not an ONNX graph that TensorRT can read"
    error = parser.get_error(0)
    where = [getattr(error, name)() for name in ("node_name", "node_operator") if hasattr(error, name)]
    node = f"node {where[0]} ({where[1]})" if len(where) == 2 and where[1] else f"node {error.node()}"
    reason = " ".join(error.desc().split())
    return f"TensorRT cannot take {node}: " + ": ".join(filter(None, [reason, _plugins.remedy(reason, "")]))


def add_profile(builder, config, network, least, most):
    """Add a profile for batches from `least` to `most`, tuned for that; raise UserError where the batch is fixed."""
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        entry = network.get_input(number)
        rest = list(entry.shape)[1:]
        if entry.shape[0] != -1:
            raise UserError(f"input {entry.name} has a fixed batch of {entry.shape[0]}: export it with a dynamic one")
        profile.set_shape(entry.name, [least] + rest, [most] + rest, [most] + rest)
    config.add_optimization_profile(profile)


def watch(trt, config):
    """Let a builder tell how far it is: by its own monitor where there is one, else the logger counts its messages."""
    logger_of(trt).restart()
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):
        def __init__(self):
            trt.IProgressMonitor.__init__(self)
            self.steps, self.told, self.start = {}, time.monotonic(), time.monotonic()

        def phase_start(self, phase, parent, steps):
            self.steps[phase] = steps

        def step_complete(self, phase, step):
            now = time.monotonic()
            if now - self.told > SILENCE:
                self.told = now
                log.info("building: %.0f s, %s: %d of %d", now - self.start, phase, step, self.steps.get(phase, 0))
            return True

        def phase_finish(self, phase):
            self.steps.pop(phase, None)

    config.progress_monitor = Monitor()
    return config.progress_monitor


def serialize(trt, builder, network, config, onnx):
    """Return the plan's bytes; raise UserError with the library's reason where it builds none."""
    logger = logger_of(trt)
    monitor = watch(trt, config)
    plan = builder.build_serialized_network(network, config)
    del monitor
    if plan is None:
        reason = logger.errors()
        remedy = f": {_cuda.LOWER}" if "memory" in reason.lower() else ""
        raise UserError(f"{onnx}: {trt.__name__} built no engine: {reason}{remedy}")
    return plan


def said(trt):
    """Return (warnings, layers told by the builder or None, what it says of a DLA or None) since the last call.

    That a layer falls back to the GPU is no warning where a network is placed on a DLA, but part of the last.
    """
    logger = logger_of(trt)
    texts = [text for _, text in logger.messages]
    warnings = {text for severity, text in logger.messages if severity == trt.ILogger.WARNING}
    found = _dla.built(texts)
    kept = sorted(text for text in warnings if found is None or not _dla.tells(text))
    logger.take()
    return kept, layers_of_log(texts), found


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


FORMAT = re.compile(r"\b(" + "|".join(sorted(TYPES, key=len, reverse=True)) + r")\b")
FIELD = r'"%s"\s*:\s*"((?:[^"\\]|\\.)*)"'


def layers_of_engine(trt, engine, context=None):
    """Return the layers that the inspector says an engine has, with tactics; a reformat is a layer like any other.

    context: an execution context whose sizes are set, for an engine that has free ones.
    """
    inspector, form = engine.create_engine_inspector(), trt.LayerInformationFormat.JSON
    if context is not None:
        inspector.execution_context = context
    return layers_of_json(inspector.get_engine_information(form)) or [
        _layer_of_text(inspector.get_layer_information(number, form)) for number in range(engine.num_layers)
    ]


def layers_of_json(text):
    """Return the layers of the inspector's JSON, or None where it is damaged (8.x writes numbers such as `nan`).

    An engine that was built without detailed verbosity has names alone: their precision is `unknown`.
    """
    try:
        found = json.loads(re.sub(r"(?<=[:\[,])\s*-?(?:nan|inf)\b", "null", text))["Layers"]
    except (ValueError, KeyError, TypeError):
        return None
    return [_layer_of_entry(entry) for entry in found]


def _layer_of_entry(entry):
    if isinstance(entry, str):
        return {"name": entry, "type": "unknown", "precision": "unknown", "tactic": None}
    inputs, outputs = ([_type_of(tensor) for tensor in entry.get(key) or []] for key in ("Inputs", "Outputs"))
    row = layer(entry.get("Name", ""), entry.get("LayerType", "unknown"), inputs, outputs)
    return {**row, "tactic": entry.get("TacticName") or entry.get("TacticValue") or entry.get("Origin")}


def _type_of(tensor):
    text = " ".join(str(tensor.get(key, "")) for key in ("Format/Datatype", "Datatype", "Format"))
    found = FORMAT.search(text)
    return found.group(1) if found else "none"


def _layer_of_text(text):
    """Return a layer's row from text that is no JSON."""
    entries = layers_of_json(f'{{"Layers": [{text.strip().rstrip(",")}]}}')
    if entries:
        return entries[0]
    names = {key: (re.findall(FIELD % key, text) or [""])[0] for key in ("Name", "LayerType")}
    parts = (part for part in text.partition('"Outputs"') if part != '"Outputs"')
    types = [[_type_of({"Format": value}) for value in re.findall(FIELD % "Format/Datatype", part)] for part in parts]
    return {**layer(names["Name"], names["LayerType"] or "unknown", *(types + [[]])[:2]), "tactic": None}
