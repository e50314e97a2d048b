"""config.yaml, checked: each value against the schema, then the rows against themselves and one another.

What two rows make of each other (a precision and a dataset's images, a precision and a target's runtime) refuses only
the results that need both: Tables.refusal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from configuration import yaml_text
from configuration.schema import Checker
from configuration.tables import DRAWN, NNCF, PYTORCH, STRONGLY_TYPED_GRAPH, Tables
from core import objective, sources
from core.addresses import public
from core.files import UserError

SCHEMA = sources.ROOT.parent / "rules/schemas/config.schema.yaml"
LOCAL = ("store", "datasets", "precisions")  # keys of config.yaml below which paths are this machine's
BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/[^@?#]*)?")
OF_FOLDERS = ("val", "labels", "synsets", "manifest")  # keys of a dataset's row that describe a folder of images
NEED_EACH_OTHER = {"other_power_mode": "power_mode", "workdir": "ssh", "ssh_config": "ssh"}  # of a target
OF_PYTORCH = ("device", "compile", "fused_attention")  # keys of a target whose graph is a program of torch.export
PLUGINS_OF = "tensorrt"  # the runtime whose engines load this project's plugin
PLANNED = ("fp16", "int8")  # values of `compute` that a plan of precisions can be made for
OF_CHOICE = {"choose", "objective", "budget", "dla", "fallback"}  # keys of a precision that chooses; two by default
OF_NNCF = {"backend", "images", "model_type"}  # keys of its calibration
WEIGHT_CHANGES = ("equalize", "smoothing", "bias_correction")  # parts of a calibration that change weights


def read() -> Tables:
    """Return the tables of config.yaml in this folder, checked as text as well; raise UserError."""
    yaml_text.check(yaml_text.MAIN)
    return load(_parsed(yaml_text.MAIN))


def load(config: dict, schema: str | os.PathLike = SCHEMA) -> Tables:
    """Return the tables of a configuration, checked against a file of JSON Schema; raise UserError."""
    return checked(config, _parsed(schema))


def _parsed(path):
    import yaml  # Snakemake's own

    with open(path, encoding="utf-8") as stream:
        return yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def checked(config: dict, schema: dict) -> Tables:
    """Return the tables of a configuration with defaults filled in; raise UserError with the first problem."""
    config = Checker(schema).check(config)
    tables = Tables({key: _expanded(value) if key in LOCAL else value for key, value in config.items()})
    _check_store(tables.store)
    if not tables.cluster:
        for row in tables.names("target").values():
            row.pop("slurm", None)  # says where a target is among a cluster's nodes
    tables.row("dataset", tables.active)
    for kind in ("model", "precision", "target"):
        tables.listed(kind)
    for kind, problems in (("dataset", _dataset), ("target", _target), ("precision", _precision)):
        for name, row in tables.names(kind).items():
            for problem in problems(row, tables):
                raise UserError(f"{kind}s.{name}{problem}")
    return tables


def _check_store(store):
    """Raise UserError for an address that is neither a folder nor a bucket; its credentials are not quoted."""
    at, local = (store or {}).get("at", ""), (store or {}).get("local") or ""
    if "://" in at and not BUCKET.fullmatch(at):
        remedy = "give a folder, or s3://bucket/prefix without credentials: boto3 finds them (docs/store.md)"
        raise UserError(f"store: {public(at)}: {remedy}")
    if "://" in local:
        raise UserError(f"store.local: {public(local)}: a local tier is a folder of this machine")
    if local and os.path.realpath(local) == os.path.realpath(at):
        raise UserError(f"store.local: {local} is the store itself: name another folder, or take it out")


def _expanded(value):
    """Return a value of config.yaml with `~` expanded in paths: no shell ever sees them."""
    if isinstance(value, dict):
        return {key: _expanded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expanded(inner) for inner in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


def _dataset(row, tables) -> Iterator[str]:
    if ("builtin" in row) == ("path" in row):
        yield ": give either builtin or path"
    if "checkpoint_key" in row and {row["weights"], row.get("from")} & {"official", "train"}:
        yield ": checkpoint_key is of a file that `weights` or `from` names: take it out"
    if ("from" in row) != (row["weights"] == "finetune"):
        yield ": weights: finetune and from (official, or a path) need each other"
    if ("drawing" in row) != (row.get("builtin") == DRAWN):
        yield f": builtin: {DRAWN} and drawing need each other"
    for key in OF_FOLDERS if "builtin" in row else ():
        if key in row:
            yield f".{key}: it is of a folder (path), and the row has a builtin dataset"
    training = row["training"]
    for key in ("crop_scale", "crop_ratio"):
        if training[key][0] > training[key][1]:
            yield f".training.{key}: {training[key]} is not [least, most]"
    for problem in _micro_batch(training):
        yield f".training.{problem}"
    small, epochs = training["small_epochs"], training["epochs"]
    if small > epochs:
        yield f".training.small_epochs is {small}, more than all {epochs} epochs"


def _target(row, tables) -> Iterator[str]:
    exported = tables.graph_format(row["graph"]) == "pt2"
    if exported != (row["runtime"] == PYTORCH):
        yield f".graph: the runtime {PYTORCH} and a graph variant of the format pt2 need each other"
    for key in OF_PYTORCH if not exported else ():
        if key in row:
            yield f".{key}: it is of the runtime {PYTORCH}, and this one is {row['runtime']}"
    if row.get("fused_attention") and row.get("device") != "cuda":
        yield ".fused_attention: its kernel runs on a GPU: set `device: cuda`, or leave it out"
    if "pytorch" in row:
        yield from _rival(row["pytorch"], exported, tables)
    if exported and "int8" in row["precisions"]:
        yield f".precisions: {PYTORCH} takes no INT8 here: quantizers are in ONNX graphs"
    if row["dla"]:
        if not (row.get("dla_generation") and row.get("dla_graph")):
            yield ": its dla needs a dla_generation and a dla_graph"
        tables.row("graph", row["dla_graph"])
    if row["typed"] and row["graph"] != STRONGLY_TYPED_GRAPH:
        yield f": typed graphs are made of the graph variant {STRONGLY_TYPED_GRAPH}, not {row['graph']}"
    if exported and row["input"] == "uint8":
        yield f".input: engines of {PYTORCH} take normalized images: uint8 needs an ONNX graph"
    if row["plugins"] != "none":
        if row["runtime"] != PLUGINS_OF or row["typed"] or "fused_graph" not in row:
            yield f".plugins: they are of the runtime {PLUGINS_OF}, not typed, with a fused_graph: set `plugins: none`"
        tables.row("graph", row["fused_graph"])
    for key, needed in NEED_EACH_OTHER.items():
        if key in row and needed not in row:
            yield f".{key}: it has no effect without {needed}"


def _rival(name, exported, tables):
    precision, target = name.split(".")
    if exported:
        yield ".pytorch: PyTorch is not compared with itself"
    if tables.row("target", target)["runtime"] != PYTORCH:
        yield f".pytorch: {target} is not a target of the runtime {PYTORCH}"
    if tables.row("precision", precision).get("compute") not in tables.row("target", target)["precisions"]:
        yield f".pytorch: {target} does not compute in {precision}"


def _precision(row, tables) -> Iterator[str]:
    if ("choose" in row) == ("compute" in row):
        yield ": give either compute or choose"
    for other in row.get("choose", ()) if row.get("choose") != "all" else ():
        if "choose" in tables.row("precision", other):
            yield f": it cannot choose {other}, which chooses itself"
    yield from _objective(row)
    for key in sorted(row.keys() - OF_CHOICE) if "choose" in row else ():
        yield f".{key}: it has no effect on a row that chooses: take it out"
    if "graph" in row:
        tables.row("graph", row["graph"])
    if row["dla"] and len(row.get("batches", ())) != 1:
        yield ": an engine on a DLA has one batch (batches: [1])"
    if "qat" in row and "calibration" not in row:
        yield ": qat needs a calibration to start from"
    for problem in _micro_batch(row.get("qat", {})):
        yield f".qat.{problem}"
    if row["fallback"] != "none" and row.get("compute") not in PLANNED:
        yield f": {row.get('compute', 'what chooses')} has no plans, only {' and '.join(PLANNED)} (fallback)"
    if row["fallback"] != "none" and row["dla"] and row.get("calibration"):
        yield ": INT8 on a DLA comes from a cache, which no plan changes: fallback: none"
    if tables.is_nncf(row) and (row["dla"] or "qat" in row or row["fallback"] != "none"):
        yield ": NNCF places pairs itself: no dla and no qat, and fallback: none"
    for problem in _calibration(row.get("calibration", {}), row["dla"]):
        yield f".calibration: {problem}"
    if "compute" in row and ("calibration" in row) != (row["compute"] == "int8"):
        yield ": compute: int8 and a calibration need each other"


def _micro_batch(row):
    if row.get("batch", 0) % row.get("micro_batch", 1):
        yield f"micro_batch: {row['micro_batch']} does not divide `batch`, {row['batch']}: give a divisor of it"


def _objective(row):
    if "objective" in row and "choose" not in row:
        yield ".objective: it is of a row that chooses (choose)"
    try:
        objective.parse(row.get("objective", objective.DEFAULT))
    except UserError as problem:
        yield f".objective: {problem}"


def _calibration(row, dla):
    if row.get("backend") == NNCF:
        for key in sorted(row.keys() - OF_NNCF):
            yield f"{key} has no effect with the backend {NNCF}: take it out"
        return
    if row and "method" not in row:
        yield "it has no method: max, entropy, percentile, mse or sweep"
    if "model_type" in row:
        yield f"model_type is of the backend {NNCF}"
    if ("candidates" in row) != (row.get("method") == "sweep"):
        yield "the method sweep and a list of candidates need each other"
    scaled = [key for key in ("candidates", "equalize", "smoothing") if row.get(key)]
    if row.get("import") and scaled:
        yield f"imported ranges are of the network as it is: no {scaled[0]}"
    for recipe in [row, *row.get("candidates", [])]:
        if "percentile" in recipe and recipe["method"] != "percentile":
            yield "percentile is of the method percentile alone"
        for key in (key for key in WEIGHT_CHANGES if dla and recipe.get(key)):
            graph = "a DLA (dla: true) is given the unchanged graph with a calibration cache"
            yield f"{key} changes weights, and {graph}: take it out"
