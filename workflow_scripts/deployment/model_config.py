"""config.pbtxt of the models by which Triton Inference Server serves a bundle.

A configuration is Triton's ModelConfig message as a dict; `text` writes it in protobuf's text format. A client that
sends image files calls the ensemble NAME, which passes them through NAME.preprocess to NAME.engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

IMAGE, PIXELS, LOGITS = "image", "pixels", "logits"  # tensors of the models in Python
LABELS = "labels.txt"
LATEST = -1  # version of a model


class Word(str):
    """A value of an enumeration, which has no quotes."""


ON_CPU, ON_GPU, ON_DLA = Word("KIND_CPU"), Word("KIND_GPU"), Word("KIND_NVDLA")


def text(message: Mapping[str, Any], indent: str = "") -> str:
    """Return a message in protobuf's text format. Lists of dicts are repeated messages; lists of numbers, one line."""
    return "".join(_field(name, value, indent) for name, value in message.items())


def _field(name, value, indent):
    if isinstance(value, Mapping):
        return f"{indent}{name} {{\n{text(value, indent + '  ')}{indent}}}\n"
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "".join(_field(name, one, indent) for one in value)
    scalars = value if isinstance(value, list) else [value]
    written = ", ".join(one if isinstance(one, Word) else json.dumps(one) for one in scalars)
    return f"{indent}{name}: {f'[ {written} ]' if isinstance(value, list) else written}\n"


def tensor(name: str, kind: str, dims: Sequence[int], **more: Any) -> dict[str, Any]:
    """Return an input or output. kind: of its elements, as STRING, UINT8 or FP32; dims: without the batch."""
    return {"name": name, "data_type": Word(f"TYPE_{kind}"), "dims": list(dims), **more}


def logits(name: str, classes: int, batch: Sequence[int] = ()) -> dict[str, Any]:
    """Return the output of an engine; a client may ask for its largest values with the labels of LABELS."""
    return tensor(name, "FP32", [*batch, classes], label_filename=LABELS)


def model(name: str, runs: dict, most: int, source: dict, target: dict, group: dict | None = None) -> dict[str, Any]:
    """Return the configuration of a model of one input and one output.

    runs: its backend or platform; most: images of a query, 0 where the dims of source and target have the batch; group:
    where its instances run, by default one on the processor.
    """
    return {
        "name": name,
        **runs,
        "max_batch_size": most,
        "input": [source],
        "output": [target],
        "instance_group": [{"kind": ON_CPU, "count": 1, **(group or {})}],
    }


def batching(preferred: Sequence[int], most: int) -> dict[str, Any]:
    """Return the dynamic batching of a model: queries that wait together become one; none where `most` is one image."""
    sizes = {"preferred_batch_size": list(preferred)} if preferred else {}
    return {"dynamic_batching": sizes} if most > 1 else {}


def ensemble(name: str, most: int, classes: int, steps: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """Return the configuration of models in a row, from image files to logits.

    steps: (model, its input, its output) of each; an output is the next one's input.
    """
    passed = [IMAGE, *(f"{model}.{target}" for model, _, target in steps[:-1]), LOGITS]
    listed = [
        {
            "model_name": model,
            "model_version": LATEST,
            "input_map": {"key": source, "value": before},
            "output_map": {"key": target, "value": after},
        }
        for (model, source, target), before, after in zip(steps, passed, passed[1:])
    ]
    return {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": most,
        "input": [tensor(IMAGE, "STRING", [1])],
        "output": [logits(LOGITS, classes)],
        "ensemble_scheduling": {"step": listed},
    }
