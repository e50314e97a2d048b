"""What the runtimes of the TensorRT family share: a logger, parsing, optimization profiles, layers and their types.

Each function takes the library (`trt`) as an argument, because the members of the family have one interface under
several names. Features are looked up in the module, never derived from its version.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import time
from pathlib import Path
from typing import Any

from core.files import UserError
from runtimes import PRECISIONS, _cuda, _dla, _plugins

log = logging.getLogger("levit")
TYPES = {
    **{"Float": "fp32", "FP32": "fp32", "Half": "fp16", "FP16": "fp16", "BFloat16": "bf16", "BF16": "bf16"},
    **{"Int8": "int8", "INT8": "int8", "UInt8": "uint8", "FP8": "fp8"},
    **{"Int32": "int32", "Int64": "int64", "Bool": "bool"},
}
FLAGS = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}  # builder flags of weakly typed networks, up to 10.x
SILENCE = 20  # seconds between lines about a build's progress
# 8.5 looks up the first profile's binding by name, corrects that itself, and warns at every query.
HARMLESS = re.compile(r"bindingIndex \d+ is not in profile \d+\. Using bindingIndex = \d+ instead")
NOISE = re.compile(r"^\[?\w*\.cpp::\w+::\d+\]?\s*|\s+")  # source positions in the library's messages


class Heartbeat:
    """Logs a line about a build's progress every SILENCE seconds."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()

    def beat(self, text: str, *values: Any) -> None:
        """Log a progress text where the last one is long ago."""
        now = time.monotonic()
        if now - self.last > SILENCE:
            self.last = now
            log.info("building: %.0f s, " + text, now - self.start, *values)


@functools.lru_cache(maxsize=None)
def logger_of(trt: Any) -> Any:
    """Return the only logger of a library, which keeps the first that it is given.

    Warnings and errors go to the log and to `messages`, each text once until they are taken; the builder's lines about
    layers go to `messages` alone. Its other messages, hundreds of thousands, are only counted for the heartbeat.
    """
    warning = int(trt.ILogger.WARNING)

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.messages = []
            self.restart()

        def restart(self):
            self.heartbeat, self.timed = Heartbeat(), 0

        def log(self, severity, text):
            if int(severity) <= warning:
                if (severity, text) not in self.messages and not HARMLESS.search(text):
                    log.info("%s: %s", trt.__name__, text)
                    self.messages.append((severity, text))
            elif "LayerType: " in text or _dla.is_about_dla(text):
                self.messages.append((severity, text))
            elif "Timing Runner" in text:
                self.timed += 1
                self.heartbeat.beat("%d groups of kernels timed", self.timed)

        def take(self, *severities):
            """Return the texts of some severities (by default all) since the last call, and forget all."""
            texts = [text for severity, text in self.messages if not severities or severity in severities]
            self.messages = []
            return texts

        def errors(self):
            """Return the errors since the last call as one line, and forget them."""
            texts = self.take(trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            return "; ".join(NOISE.sub(" ", text).strip() for text in texts[:3]) or "it gave no reason"

    return Logger()


def need_gpu() -> dict:
    """Return the GPU's facts; raise UserError where CUDA finds none."""
    try:
        return {**_cuda.device(), **_cuda.versions()}
    except UserError as error:
        raise UserError(f"TensorRT needs an NVIDIA GPU and its driver, and CUDA finds none here: {error}") from None


def deserialize(trt: Any, path: str) -> Any:
    """Return the engine in a file; raise UserError where it is damaged, or of another version or device."""
    logger, gpu = logger_of(trt), need_gpu()
    logger.take()
    data = Path(path).read_bytes()
    engine = trt.Runtime(logger).deserialize_cuda_engine(data) if data else None
    if engine is None:
        reason = logger.errors() if data else "it is empty"
        here = f"{trt.__name__} {trt.__version__} on {gpu['name']}"
        remedy = _plugins.remedy(reason, "delete it and run again")
        raise UserError(f"{path} is not an engine that {here} can run ({reason}): {remedy}")
    return engine


def is_strongly_typed(trt: Any) -> bool:
    """Return whether a library reads types from the graph alone: TensorRT 11 and later, and RTX."""
    return not hasattr(trt.BuilderFlag, "FP16")


def network_flags(trt: Any) -> int:
    """Return the creation flags of a library's networks."""
    flags, known = 0, trt.NetworkDefinitionCreationFlag
    if is_strongly_typed(trt) and hasattr(known, "STRONGLY_TYPED"):
        flags |= 1 << int(known.STRONGLY_TYPED)
    if hasattr(known, "EXPLICIT_BATCH"):
        flags |= 1 << int(known.EXPLICIT_BATCH)
    return flags


def parse(trt: Any, builder: Any, path: str) -> tuple[Any, Any]:
    """Return (network, parser) of an ONNX file; raise UserError naming the first node that does not parse.

    The parser owns the weights: keep it until the engine is built.
    """
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger_of(trt))
    if not _parsed(trt, parser, path):
        raise UserError(f"{path}: {_parser_error(parser)}")
    return network, parser


def _parsed(trt, parser, path):
    """Return whether a file parses; parsers of 10 and later prefer a node's function body to its plugin."""
    if _plugins.is_configured() and hasattr(trt, "IPluginV3"):
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


def add_profile(builder: Any, config: Any, network: Any, least: int, most: int) -> None:
    """Add a profile for batches from `least` to `most`, tuned for that; raise UserError where the batch is fixed."""
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        entry = network.get_input(number)
        rest = list(entry.shape)[1:]
        if entry.shape[0] != -1:
            raise UserError(f"input {entry.name} has a fixed batch of {entry.shape[0]}: export it with a dynamic one")
        profile.set_shape(entry.name, [least] + rest, [most] + rest, [most] + rest)
    config.add_optimization_profile(profile)


def watch(trt: Any, config: Any) -> Any:
    """Log a build's progress: from the library's own monitor where it has one, else the logger counts its messages."""
    logger_of(trt).restart()
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):
        def __init__(self):
            trt.IProgressMonitor.__init__(self)
            self.steps, self.heartbeat = {}, Heartbeat()

        def phase_start(self, phase, parent, steps):
            self.steps[phase] = steps

        def step_complete(self, phase, step):
            self.heartbeat.beat("%s: %d of %d", phase, step, self.steps.get(phase, 0))
            return True

        def phase_finish(self, phase):
            self.steps.pop(phase, None)

    config.progress_monitor = Monitor()
    return config.progress_monitor


def serialize(trt: Any, builder: Any, network: Any, config: Any, onnx: str) -> Any:
    """Return the plan's bytes; raise UserError with the library's reason where the build fails."""
    logger = logger_of(trt)
    monitor = watch(trt, config)
    plan = builder.build_serialized_network(network, config)
    del monitor
    if plan is None:
        reason = logger.errors()
        remedy = f": {_cuda.LOWER}" if "memory" in reason.lower() else ""
        raise UserError(f"{onnx}: {trt.__name__} built no engine: {reason}{remedy}")
    return plan


def take_build_log(trt: Any) -> tuple[list[str], list[dict] | None, dict | None]:
    """Return (warnings, layers or None, DLA placement or None) from the builder's messages, and forget these.

    Where a network is placed on a DLA, a fallback to the GPU is part of the placement and no warning.
    """
    logger = logger_of(trt)
    texts = [text for _, text in logger.messages]
    warnings = {text for severity, text in logger.messages if severity == trt.ILogger.WARNING}
    placement = _dla.read_log(texts)
    logger.take()
    return sorted(w for w in warnings if placement is None or not _dla.is_about_dla(w)), layers_of_log(texts), placement


def layer(name: str, kind: str, inputs: list[str], outputs: list[str]) -> dict:
    """Return a layer's row. Its precision is the narrowest type that it reads, constants apart.

    A layer that only quantizes therefore has the precision of its input; one that reads none of PRECISIONS has the type
    of its first input, else output.
    """
    types = [TYPES.get(text, text) for text in inputs + outputs]
    narrowest = [precision for precision in PRECISIONS if precision in types[: len(inputs)]]
    return {"name": name, "type": kind, "precision": (narrowest or types or ["none"])[0]}


LAYER = re.compile(
    r"^Name: (.*?), LayerType: (.*?), Inputs: \[(.*?)\], Constants: \[(.*?)\], Outputs: \[([^]]*)\], Tactic", re.M
)
DATATYPE = re.compile(r"Datatype: (\w+)")


def layers_of_log(texts: list[str]) -> list[dict] | None:
    """Return the layers of an engine from its verbose builder's messages, or None where these list none.

    It is the text of the engine inspector, which needs a loaded engine and so a GPU.
    """
    matches = [match for text in texts if "LayerType: " in text for match in LAYER.finditer(_flat(text))]
    rows = [(m.group(1), m.group(2), DATATYPE.findall(m.group(3)), DATATYPE.findall(m.group(5))) for m in matches]
    return [layer(*row) for row in rows] or None


def _flat(text):
    """Return the text with the brackets of shapes as parentheses, so that a list ends at its own bracket."""
    return re.sub(r"\[([-\d,x]+)\]", r"(\1)", text)


FORMAT = re.compile(r"\b(" + "|".join(sorted(TYPES, key=len, reverse=True)) + r")\b")
FIELD = r'"%s"\s*:\s*"((?:[^"\\]|\\.)*)"'


def layers_of_engine(trt: Any, engine: Any, context: Any = None) -> list[dict]:
    """Return an engine's layers as the inspector lists them, with tactics; a reformat is a layer like any other.

    context: an execution context whose sizes are set, for an engine that has free ones.
    """
    inspector, form = engine.create_engine_inspector(), trt.LayerInformationFormat.JSON
    if context is not None:
        inspector.execution_context = context
    return layers_of_json(inspector.get_engine_information(form)) or [
        _layer_of_text(inspector.get_layer_information(number, form)) for number in range(engine.num_layers)
    ]


def layers_of_json(text: str) -> list[dict] | None:
    """Return the layers of the inspector's JSON, or None where it is damaged (8.x writes numbers such as `nan`).

    An engine that was built without detailed verbosity lists names alone: their precision is `unknown`.
    """
    try:
        entries = json.loads(re.sub(r"(?<=[:\[,])\s*-?(?:nan|inf)\b", "null", text))["Layers"]
    except (ValueError, KeyError, TypeError):
        return None
    return [_layer_of_entry(entry) for entry in entries]


def _layer_of_entry(entry):
    if isinstance(entry, str):
        return {"name": entry, "type": "unknown", "precision": "unknown", "tactic": None}
    inputs, outputs = ([_type_of(tensor) for tensor in entry.get(key) or []] for key in ("Inputs", "Outputs"))
    row = layer(entry.get("Name", ""), entry.get("LayerType", "unknown"), inputs, outputs)
    return {**row, "tactic": entry.get("TacticName") or entry.get("TacticValue") or entry.get("Origin")}


def _type_of(tensor):
    text = " ".join(str(tensor.get(key, "")) for key in ("Format/Datatype", "Datatype", "Format"))
    match = FORMAT.search(text)
    return match.group(1) if match else "none"


def _layer_of_text(text):
    entries = layers_of_json(f'{{"Layers": [{text.strip().rstrip(",")}]}}')
    if entries:
        return entries[0]
    names = {key: (re.findall(FIELD % key, text) or [""])[0] for key in ("Name", "LayerType")}
    parts = (part for part in text.partition('"Outputs"') if part != '"Outputs"')
    types = [[_type_of({"Format": value}) for value in re.findall(FIELD % "Format/Datatype", part)] for part in parts]
    return {**layer(names["Name"], names["LayerType"] or "unknown", *(types + [[]])[:2]), "tactic": None}
