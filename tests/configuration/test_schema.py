"""config.yaml's schema: our checker says what jsonschema says, fills in defaults and reads text as numbers."""

import copy

import jsonschema
import pytest
import yaml

from configuration.schema import Checker, Invalid
from workflow import REPOSITORY

SCHEMA = yaml.safe_load((REPOSITORY / "rules/schemas/config.schema.yaml").read_text())
CONFIG = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
# keys that rows may do without: what is there to say is then nothing
ABSENT = {"size", "crop", "crop_mode", "interpolation", "mean", "std"}  # of a model: timm says them
ABSENT |= {"url", "sha256", "options", "top1", "license", "builtin", "path", "val", "plan", "threads"}
ABSENT |= {"high_precision", "graph", "calibration", "qat", "criterion", "agreement", "tolerance"}
ABSENT |= {"drawing", "families", "compute", "processes", "micro_batch", "decoder", "decay", "choose", "objective"}
ABSENT |= {"train", "labels", "synsets", "class_order", "manifest"}  # of a dataset: what its folders do not say
ABSENT |= {"subset", "classes", "images"}
ABSENT |= {
    "method",
    "model_type",
    "candidates",
    "import",
    "backend",
    "percentile",
    "weights",
    "equalize",
    "smoothing",
    "bias_correction",
}
ABSENT |= {"local_gb"}  # of a store: its local tier has no limit
ABSENT |= {"steps", "from", "checkpoint_key"}
ABSENT |= {"device", "compile", "fused_attention", "pytorch", "format"}  # the CPU, eager, no comparison, ONNX
ABSENT |= {"batches", "dla_generation", "fused_graph", "dla_graph"}  # a precision's batches are the target's otherwise
ABSENT |= {"ssh", "workdir", "ssh_config"}  # absent: the target's jobs run here
ABSENT |= {"cluster", "slurm", "partition", "gpu_partition", "constraint", "cores", "gpus"}  # this machine alone
ABSENT |= {"python", "version", "architecture", "compute_capability", "compute_capabilities"}
ABSENT |= {"workspace_mb", "optimization_level", "dynamic_batch", "external_tactics"}  # absent: the runtime's own
ABSENT |= {"tf32", "cuda_graph", "spin_wait", "transfers", "power_mode", "other_power_mode", "chained"}
BROKEN = {  # path of keys -> a value that is wrong there
    ("seed",): -1,
    ("sead",): 0,
    ("store",): 3,
    ("dataset",): "a b",
    ("results", "models"): "LeViT-128S",
    ("models",): {},
    ("models", "LeViT-tiny", "size"): 0,
    ("models", "LeViT-tiny", "mean"): [0.5, 0.5],
    ("models", "LeViT-tiny", "interpolation"): "nearest",
    ("models", "LeViT-tiny", "sha256"): "xyz",
    ("models", "a.b"): {"timm": "x", "size": 1},
    ("datasets", "digits", "classes"): 1,
    ("datasets", "digits", "training", "flip"): 1.5,
    ("datasets", "digits", "training", "freeze"): "stem.*",
    ("datasets", "glyphs", "drawing"): {"fonts": "x", "train": 1},
    ("datasets", "glyphs", "drawing", "families"): 7,
    ("datasets", "logs"): {"path": "x", "classes": 2, "weights": "train"},
    ("precisions", "fp32", "compute"): "fp64",
    ("precisions", "fp32", "budget"): None,
    ("precisions", "fp32", "fallback"): {"plans": "x"},
    ("precisions", "fp16", "criterion"): {"agrement": 99},
    ("precisions", "int8_qat", "qat", "epochs"): 1.5,
    ("precisions", "int8_qat", "qat", "scales"): "learnt",
    ("precisions", "int8_qat", "calibration", "smoothing"): 1.5,
    ("precisions", "int8_qat", "calibration", "backend"): "torchao",
    ("precisions", "int8_ptq", "calibration", "candidates"): [{"method": "sweep"}],
    ("targets", "cpu", "precisions"): [],
    ("targets", "cpu", "batches"): [1, 0],
    ("targets", "cpu", "typed"): "perhaps",
    ("targets", "cpu", "ssh"): "-oProxyCommand=x",
    ("targets", "xavier", "other_power_mode"): "ignore",
    ("targets", "a-b"): {"runtime": "openvino", "graph": "cpu", "precisions": ["fp32"]},
    ("graphs", "cpu", "placement"): ["conv", "everything"],
}


def objects(schema, where="#"):
    """Yield (place, schema) of every object schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" or "properties" in schema:
            yield where, schema
        for key, inner in schema.items():
            yield from objects(inner, f"{where}/{key}")
    elif isinstance(schema, list):
        for number, inner in enumerate(schema):
            yield from objects(inner, f"{where}/{number}")


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_config_is_valid_to_both():
    jsonschema.validate(CONFIG, SCHEMA, cls=jsonschema.Draft202012Validator)
    checked = Checker(SCHEMA).check(CONFIG)
    jsonschema.validate(checked, SCHEMA, cls=jsonschema.Draft202012Validator)
    assert Checker(SCHEMA).check(checked) == checked


@pytest.mark.parametrize("keys", BROKEN, ids=".".join)
def test_what_is_wrong_is_refused_by_both(keys):
    config = copy.deepcopy(CONFIG)
    place = config
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = BROKEN[keys]
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(config)
    with pytest.raises(Invalid) as problem:
        Checker(SCHEMA).check(config)
    assert keys[-1] in str(problem.value)
    assert "\n" not in str(problem.value)


def test_every_key_is_described_and_no_other_is_taken():
    for where, schema in objects(SCHEMA):
        assert "additionalProperties" in schema, where
        for key, inner in schema.get("properties", {}).items():
            assert "description" in inner, f"{where}/{key}"


def test_every_key_has_a_default_or_is_required_or_may_be_absent():
    for where, schema in objects(SCHEMA):
        for key, inner in schema.get("properties", {}).items():
            reached = {**SCHEMA["$defs"].get(inner.get("$ref", "").rsplit("/", 1)[-1], {}), **inner}
            assert "default" in reached or key in schema.get("required", []) or key in ABSENT, f"{where}/{key}"


def test_text_becomes_numbers():
    config = copy.deepcopy(CONFIG)
    config.update(seed="3")
    config["targets"]["cpu"].update(batches=["1", "8"], typed="false", iterations="9")
    config["precisions"]["fp32"]["budget"] = "1"
    checked = Checker(SCHEMA).check(config)
    assert checked["seed"] == 3 and checked["targets"]["cpu"]["batches"] == [1, 8]
    assert checked["targets"]["cpu"]["typed"] is False and checked["precisions"]["fp32"]["budget"] == 1.0


def test_defaults_are_copies():
    config = copy.deepcopy(CONFIG)
    for row in config["targets"].values():
        row.pop("batches", None)
    checked = Checker(SCHEMA).check(config)
    checked["targets"]["cpu"]["batches"].append(99)
    assert checked["targets"]["ort"]["batches"] == [1, 16]
