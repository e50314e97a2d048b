"""TensorRT without a GPU: what its API lets us ask of each version, inspector's text, calibration caches, errors.

A library is a stand-in with the names that a version has: 8.4 as NVIDIA's sources say, 8.5.3.1 as its wheel was seen to
have (tests/recorded), 10 and 11 from NVIDIA's migration notes. None of these runs an engine here.
"""

import json
import struct
import types

import numpy as np
import pytest

import fake_gpu
import runtimes
from conftest import ROOT
from core.files import UserError
from devices import probe
from runtimes import _calibration, _gpu, _layers, _tensorrt, missing_precisions, tensorrt

SURFACES = json.loads((ROOT / "tests" / "recorded" / "tensorrt_api.json").read_text())
FP32 = {"compute": "fp32", "batches": [1, 8]}
INT8 = {"compute": "int8", "high_precision": "fp16", "batches": [1, 8]}


class Flags:
    """An enumeration with some names, each its own value."""

    def __init__(self, names):
        for number, name in enumerate(names):
            setattr(self, name, number)


def library(version):
    """Return a stand-in for a version's module with the names that it has."""
    names = SURFACES[version]
    found = types.SimpleNamespace(__version__=names["version"], __name__="tensorrt", float32="f32", float16="f16")
    for name in ("BuilderFlag", "NetworkDefinitionCreationFlag", "TacticSource", "PreviewFeature"):
        if name in names:
            setattr(found, name, Flags(names[name]))
    found.IExecutionContext = type("IExecutionContext", (), dict.fromkeys(names["IExecutionContext"]))
    found.ProfilingVerbosity = types.SimpleNamespace(DETAILED="detailed")
    found.MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")
    found.DeviceType = types.SimpleNamespace(DLA="dla")
    for name in names["module"]:
        setattr(found, name, type(name, (), {}))
    return found


class Config:
    """A builder's configuration that notes what is set; it has the names that a version has."""

    def __init__(self, names):
        object.__setattr__(self, "names", set(names))
        object.__setattr__(self, "noted", {"flags": set(), "profiles": []})

    def __setattr__(self, name, value):
        assert name in self.names, f"this version has no {name}"
        self.noted[name] = value

    def __getattr__(self, name):
        if name not in self.names:
            raise AttributeError(name)
        noted = self.noted
        return {
            "set_flag": noted["flags"].add,
            "clear_flag": noted["flags"].discard,
            "add_optimization_profile": noted["profiles"].append,
            "get_tactic_sources": lambda: 31,
            "set_tactic_sources": lambda bits: noted.update(sources=bits),
            "set_preview_feature": lambda feature, on: noted.update(preview=(feature, on)),
            "set_memory_pool_limit": lambda pool, size: noted.update(workspace=size),
        }.get(name)


class Profile(dict):
    def set_shape(self, name, *shapes):
        self[name] = shapes


BUILDER = types.SimpleNamespace(create_optimization_profile=Profile, num_DLA_cores=2)
ENTRY = types.SimpleNamespace(name="input_0", shape=(-1, 3, 4, 4))
NETWORK = types.SimpleNamespace(num_inputs=1, get_input=lambda number: ENTRY)


def configured(version, recipe):
    trt = library(version)
    config = Config(SURFACES[version]["IBuilderConfig"])
    tensorrt._configure(trt, BUILDER, config, NETWORK, recipe)
    flags = {
        name for name in SURFACES[version]["BuilderFlag"] if getattr(trt.BuilderFlag, name) in config.noted["flags"]
    }
    return flags, config.noted


@pytest.mark.parametrize("version", SURFACES)
@pytest.mark.parametrize("recipe", [FP32, {**FP32, "compute": "fp16"}, INT8], ids=lambda recipe: recipe["compute"])
def test_flags_that_a_version_has(version, recipe):
    flags, noted = configured(version, {**recipe, "workspace_mb": 64})
    typed = version.startswith("11")
    wanted = {"FP16", "INT8"} if recipe is INT8 else {"FP16"} if recipe["compute"] == "fp16" else set()
    assert flags == (set() if typed else wanted)
    assert noted.get("workspace", noted.get("max_workspace_size")) == 64 << 20
    assert noted["profiling_verbosity"] == "detailed"
    assert [profile["input_0"][0][0] for profile in noted["profiles"]] == [1, 1]
    assert [profile["input_0"][2][0] for profile in noted["profiles"]] == [1, 8]


def test_tf32_only_where_it_is_asked_for():
    assert "TF32" not in configured("8.5", FP32)[0] and "TF32" in configured("8.5", {**FP32, "tf32": True})[0]


@pytest.mark.parametrize("version", SURFACES)
def test_kernels_from_elsewhere(version):
    _, noted = configured(version, {**FP32, "external_tactics": False, "dynamic_batch": False})
    sources = SURFACES[version]["TacticSource"]
    left = [name for number, name in enumerate(sources) if noted["sources"] >> number & 1]
    assert not {"CUBLAS", "CUBLAS_LT", "CUDNN"} & set(left) and "EDGE_MASK_CONVOLUTIONS" in left
    assert ("preview" in noted) == (
        "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805" in SURFACES[version]["PreviewFeature"]
    )


def test_optimization_levels():
    assert configured("10", {**FP32, "optimization_level": 5})[1]["builder_optimization_level"] == 5
    assert "ENABLE_TACTIC_HEURISTIC" in configured("8.5", {**FP32, "optimization_level": 2})[0]
    assert "ENABLE_TACTIC_HEURISTIC" not in configured("8.5", {**FP32, "optimization_level": 3})[0]
    assert configured("8.4", {**FP32, "optimization_level": 2})[0] == set()


@pytest.mark.parametrize("version", SURFACES)
def test_engines_for_the_batches_alone(version):
    _, noted = configured(version, {**FP32, "dynamic_batch": False})
    assert [{shape[0] for shape in profile["input_0"]} for profile in noted["profiles"]] == [{1}, {8}]
    assert "preview" not in noted and ("preview" in configured("8.5", FP32)[1])


@pytest.mark.parametrize("version", SURFACES)
def test_network_flags(version):
    trt, names = library(version), SURFACES[version]["NetworkDefinitionCreationFlag"]
    on = {
        name for name in names if _tensorrt.network_flags(trt) >> getattr(trt.NetworkDefinitionCreationFlag, name) & 1
    }
    assert on == {"8.4": {"EXPLICIT_BATCH"}, "8.5": {"EXPLICIT_BATCH"}, "10": {"EXPLICIT_BATCH"}}.get(
        version, {"STRONGLY_TYPED"}
    )


@pytest.mark.parametrize("version, names", [("8.4", False), ("8.5", True), ("10", True), ("11", True)])
def test_interfaces(version, names):
    assert _gpu.Tensors.is_available(library(version)) == names
    assert _gpu.Bindings.is_available(library(version)) == (version in ("8.4", "8.5"))


def test_what_a_version_has_not():
    with pytest.raises(UserError, match="TensorRT 8.5.3.1 has no bf16: choose another"):
        tensorrt._check(library("8.5"), {**FP32, "compute": "bf16"}, None, None)
    tensorrt._check(library("10"), {**FP32, "compute": "bf16"}, None, None)
    with pytest.raises(UserError, match="takes types from the graph alone: set `typed: true`"):
        tensorrt._check(library("11"), FP32, {"nodes": []}, None)
    with pytest.raises(UserError, match=r"takes no calibration cache \(a.cache\): quantize explicitly"):
        tensorrt._check(library("11"), INT8, None, "a.cache")
    with pytest.raises(UserError, match="cannot compute in fp32 here: one of fp16, int8"):
        tensorrt._check(library("8.5"), {**FP32, "dla": True}, None, None)


# A plan of precisions on the layers of a network


class Layer:
    """A layer of a network: it has the attributes that a builder reads, and notes what is set."""

    def __init__(self, name, kind, inputs, outputs, dtype="f32", metadata=None):
        self.name, self.type, self.inputs, self.outputs = name, kind, inputs, outputs
        self.dtype, self.precision, self.types = dtype, None, {}
        if metadata is not None:
            self.metadata = metadata
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)

    def _tensor(self, name):
        return types.SimpleNamespace(name=name, dtype=self.dtype) if name else None

    def get_input(self, number):
        return self._tensor(self.inputs[number])

    def get_output(self, number):
        return self._tensor(self.outputs[number])

    def set_output_type(self, number, kind):
        self.types[number] = kind


def planned_network(metadata):
    """Return what a parser makes of Gemm, Softmax (and a reshape of its own), Gemm_1 and Add; metadata: 8.6's."""
    rows = [
        ("m/Flatten", "SHUFFLE", ["x"], ["a"], "m/Flatten"),
        ("m.weight", "CONSTANT", [], ["w"], None),
        ("m/Gemm", "MATRIX_MULTIPLY", ["a", "w"], ["b"], "m/Gemm"),
        ("m.bias", "CONSTANT", [], ["c"], None),
        ("(Unnamed Layer* 4) [Shuffle]", "SHUFFLE", ["c"], ["d"], None),
        ("m/Gemm_7", "ELEMENTWISE", ["b", "d"], ["e"], "m/Gemm"),
        ("m/Softmax", "SOFTMAX", ["e"], ["f"], "m/Softmax"),
        ("(Unnamed Layer* 7) [Shuffle]", "SHUFFLE", ["f"], ["g"], None),
        ("m/Gemm_1", "MATRIX_MULTIPLY", ["g", None], ["h"], "m/Gemm_1"),
        ("m/Add", "ELEMENTWISE", ["x", "h"], ["j"], "m/Add"),
        ("shape", "SHAPE", ["j"], ["i"], None),
    ]
    found = [
        Layer(name, kind, reads, writes, "i32" if name == "shape" else "f32", metadata and f"[ONNX Layer: {node}]")
        for name, kind, reads, writes, node in rows
    ]
    return types.SimpleNamespace(num_layers=len(found), get_layer=found.__getitem__, layers=found)


GRAPH = ["m/Flatten", "m/Gemm", "m/Softmax", "m/Gemm_1", "m/Add"]
PLANS = {
    ("m/Gemm",): ["m/Gemm", "(Unnamed Layer* 4) [Shuffle]", "m/Gemm_7"],
    ("m/Gemm_1",): ["(Unnamed Layer* 7) [Shuffle]", "m/Gemm_1", "m/Add"],
    ("m/Softmax", "m/Flatten"): ["m/Flatten", "m/Softmax", "(Unnamed Layer* 7) [Shuffle]"],
}


@pytest.mark.parametrize("metadata", [False, True], ids=["before 8.6", "8.6"])
@pytest.mark.parametrize("names", PLANS)
def test_every_layer_of_a_plans_nodes_is_told(names, metadata):
    trt, network = library("10"), planned_network(metadata)
    trt.LayerType = Flags(_layers.LEFT_ALONE)
    for layer in network.layers:
        layer.type = getattr(trt.LayerType, layer.type, layer.type)
    plan = {"nodes": [{"name": name, "precision": "fp32"} for name in names], "graph": GRAPH}
    config = Config(SURFACES["10"]["IBuilderConfig"])
    assert tensorrt._apply_plan(trt, config, network, plan) == (len(PLANS[names]), [])
    assert [layer.name for layer in network.layers if layer.precision == "f32"] == PLANS[names]
    assert all(layer.types == ({0: "f32"} if layer.precision else {}) for layer in network.layers)
    assert trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS in config.noted["flags"]


def test_plan_nodes_without_a_layer_are_named():
    trt, config = library("10"), Config(SURFACES["10"]["IBuilderConfig"])
    trt.LayerType = Flags(_layers.LEFT_ALONE)
    nodes = [{"name": name, "precision": "fp32"} for name in ("m/Gemm", "m/Gone")]
    followed, warnings = tensorrt._apply_plan(trt, config, planned_network(True), {"nodes": nodes, "graph": GRAPH})
    assert followed and warnings == ["the plan's node m/Gone has no layer in TensorRT's network"]
    with pytest.raises(UserError, match=r"none of the plan's 1 nodes is a layer of this graph \(m/Gone\): plan again"):
        tensorrt._apply_plan(trt, config, planned_network(True), {"nodes": nodes[1:], "graph": GRAPH})
    assert tensorrt._apply_plan(trt, config, planned_network(True), None) == (None, [])


# Without TensorRT, or without a GPU


@pytest.mark.skipif(probe.facts("tensorrt")["version"] is not None, reason="TensorRT is installed")
def test_not_installed(tmp_path):
    runtime = runtimes.load("tensorrt")
    for call in (runtime.fingerprint, lambda: runtime.load("e"), lambda: runtime.build("o", FP32, None, "e")):
        with pytest.raises(UserError, match=r"tensorrt cannot be imported here \(.*\): install it as envs/ says"):
            call()


@pytest.mark.skipif(probe.facts("tensorrt")["device"] is not None, reason="there is a GPU")
def test_no_gpu(monkeypatch):
    monkeypatch.setattr(tensorrt, "library", lambda: library("8.5"))
    with pytest.raises(UserError, match="TensorRT needs an NVIDIA GPU and its driver, and CUDA finds none here: "):
        tensorrt.build("net.onnx", FP32, None, "e")


# What the library tells


def test_each_message_is_told_once(caplog):
    """8.5 says the same of every weight and query; what it says of a later engine is news again."""
    trt = fake_gpu.library(None)
    logger, warning = _tensorrt.logger_of.__wrapped__(trt), trt.ILogger.WARNING
    profile = "ICudaEngine::getProfileDimensions: bindingIndex 0 is not in profile 1. Using bindingIndex = 2 instead."
    with caplog.at_level("INFO"):
        for text in ["clamped", profile, "other", "clamped"]:
            logger.log(warning, text)
        logger.log(trt.ILogger.ERROR, "clamped")
        logger.log(trt.ILogger.VERBOSE, "Timing Runner: x")
    assert [record.getMessage() for record in caplog.records] == [
        f"tensorrt: {t}" for t in ("clamped", "other", "clamped")
    ]
    assert logger.take(warning) == ["clamped", "other"] and logger.timed == 1
    logger.log(warning, "clamped")
    assert logger.take() == ["clamped"]


# What the inspector says

REFORMAT = {
    "Name": "Reformatting CopyNode for Input Tensor 0 to conv",
    "LayerType": "Reformat",
    "Inputs": [{"Name": "a", "Dimensions": [1, 3], "Format/Datatype": "Row major linear FP32"}],
    "Outputs": [{"Name": "b", "Dimensions": [1, 3], "Format/Datatype": "Row major Int8 format"}],
    "Origin": "REFORMAT",
}
CONV = {
    "Name": "conv",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "b", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
    "Outputs": [{"Name": "c", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
    "TacticName": "sm80_xmma_fprop",
    "Alpha": 1.0,
}
ROWS = [
    {"name": REFORMAT["Name"], "type": "Reformat", "precision": "fp32", "tactic": "REFORMAT"},
    {"name": "conv", "type": "CaskConvolution", "precision": "int8", "tactic": "sm80_xmma_fprop"},
]


def test_layers_of_the_inspector():
    text = json.dumps({"Layers": [REFORMAT, CONV], "Bindings": ["a"]})
    assert _tensorrt.layers_of_json(text) == ROWS
    assert _tensorrt.layers_of_json(text.replace("1.0", " nan")) == ROWS
    assert _tensorrt.layers_of_json("not JSON") is None and _tensorrt.layers_of_json("{}") is None
    assert _tensorrt.layers_of_json('{"Layers": ["conv"]}')[0]["precision"] == "unknown"


def test_inspector_whose_text_is_no_json():
    trt = types.SimpleNamespace(LayerInformationFormat=types.SimpleNamespace(JSON="json"))
    layers = [json.dumps(REFORMAT), json.dumps(CONV, indent=1).replace("1.0", "oops")]
    inspector = types.SimpleNamespace(
        get_engine_information=lambda form: "{broken", get_layer_information=lambda number, form: layers[number]
    )
    engine = types.SimpleNamespace(create_engine_inspector=lambda: inspector, num_layers=2)
    found = _tensorrt.layers_of_engine(trt, engine)
    assert [{**row, "tactic": None} for row in found] == [{**row, "tactic": None} for row in ROWS]


def test_a_conversion_is_no_computing():
    recipe = {"compute": "int8", "high_precision": "fp16"}
    said = "the recipe asks for {}, and no layer computes in it".format
    assert missing_precisions(recipe, ROWS) == [said("fp16")]
    halves = [{**ROWS[0], "precision": "int8"}, {**ROWS[1], "precision": "fp16"}]
    assert missing_precisions(recipe, halves) == [said("int8")], "it is quantized, and then nothing is INT8"
    assert missing_precisions(recipe, halves + ROWS) == []
    unknown = "whether any layer computes in int8 or fp16 is not known: they cannot be read back"
    assert missing_precisions(recipe, None) == [unknown]


# Calibration caches


@pytest.mark.parametrize(
    "version, number", [("8.4.0.11", 8400), ("8.5.2.2", 8502), ("10.3.0.26", 100300), ("10.3", 100300)]
)
def test_header_of_a_cache(version, number):
    assert _calibration.header(version) == f"TRT-{number}-EntropyCalibration2"


def test_text_of_a_cache(tmp_path):
    text = _calibration.text({"b": 0.5, "a": 1.0}, "8.5.2")
    assert text == "TRT-8502-EntropyCalibration2\na: 3f800000\nb: 3f000000\n"
    (tmp_path / "c").write_text(text)
    assert _calibration.read(tmp_path / "c") == {"a": 1.0, "b": 0.5}
    assert _calibration.hexadecimal(127.0 / 127) == struct.pack(">f", 1.0).hex()


@pytest.mark.parametrize(
    "text", ["", "a: 3f800000\n", "TRT-8502-MinMaxCalibration\na: 3f800000\n", "TRT-8502-EntropyCalibration2\na: zz\n"]
)
def test_what_is_no_cache(tmp_path, text):
    (tmp_path / "c").write_text(text)
    with pytest.raises(UserError, match="c is not a TensorRT calibration cache: delete it"):
        _calibration.read(tmp_path / "c")


def test_calibrator_reads_a_cache_of_another_version(tmp_path):
    (tmp_path / "c").write_text(_calibration.text({"a": 1.0}, "10.3.0"))
    trt = library("8.5")
    trt.IInt8EntropyCalibrator2 = type("IInt8EntropyCalibrator2", (), {})
    found = tensorrt.calibrator(trt, tmp_path / "c", Network())
    assert found.read_calibration_cache() == b"TRT-8503-EntropyCalibration2\na: 3f800000\n"
    assert found.get_batch(["a"]) is None and found.get_batch_size() == 1


class BaseLayer:
    """A network's layer as its base class: what it is more specifically is seen once it has that class."""

    def __init__(self, kind, inputs, outputs, **values):
        self.type, self.inputs, self.outputs, self.values = kind, inputs.split(), outputs.split(), values
        self.num_inputs, self.num_outputs = len(self.inputs), len(self.outputs)

    def get_input(self, number):
        return self.tensor(self.inputs[number])

    def get_output(self, number):
        return self.tensor(self.outputs[number])

    def tensor(self, name):
        dtype = "i32" if name.startswith("shape") else "f32"
        return None if name == "-" else types.SimpleNamespace(name=name, dtype=dtype)


class ConstantLayer(BaseLayer):
    weights = property(lambda self: self.values["weights"])


class ElementWiseLayer(BaseLayer):
    op = property(lambda self: self.values["op"])


class Network:
    """A network of layers in their order: (kind, names of inputs, names of outputs, {attribute: value})."""

    def __init__(self, *layers):
        self.layers, self.num_layers = layers, len(layers)

    def get_layer(self, number):
        return self.layers[number]


def completed(version, scales, *layers):
    """Return what a version's network of (kind, inputs, outputs, attributes?) completes a cache to."""
    trt = library(version)
    trt.LayerType, trt.ElementWiseOperation = Flags(SURFACES[version]["LayerType"]), Flags(["SUM", "PROD"])
    trt.IConstantLayer, trt.IElementWiseLayer = ConstantLayer, ElementWiseLayer
    network = Network(*(BaseLayer(getattr(trt.LayerType, kind), *ends, **dict(*more)) for kind, *ends, more in layers))
    return _calibration.complete(trt, network, scales)


SUM, PRODUCT = [{"op": 0}], [{"op": 1}]


@pytest.mark.parametrize("version", ["8.4", "8.5"])
def test_a_gemm_as_the_parser_makes_it(version):
    """The names are TensorRT's own; the product is a sum less the bias."""
    found, missing = completed(
        version,
        {"x": 0.5, "y": 2.0},
        ("CONSTANT", "", "w", [{"weights": np.array([0.5, -12.7], np.float32)}]),
        ("MATRIX_MULTIPLY", "x w", "product", []),
        ("CONSTANT", "", "bias", [{"weights": np.array([-25.4], np.float32)}]),
        ("SHUFFLE", "bias", "row", []),
        ("ELEMENTWISE", "product row", "y", SUM),
    )
    assert not missing and found == pytest.approx(
        {"x": 0.5, "y": 2.0, "w": 0.1, "bias": 0.2, "row": 0.2, "product": 2.2}
    )


@pytest.mark.parametrize("version", ["8.4", "8.5"])
def test_what_moves_numbers_keeps_their_scale(version):
    found, missing = completed(
        version,
        {"x": 0.5, "z": 3.0, "end": 0.25},
        ("SHUFFLE", "x shape_1", "a", []),
        ("IDENTITY", "a", "b", []),
        ("SLICE", "b - shape_2", "c", []),
        ("CONCATENATION", "c z", "d", []),
        ("SOFTMAX", "d", "soft", []),
        ("SHUFFLE", "soft", "end", []),
        ("SOFTMAX", "end", "last", []),
        ("SHAPE", "x", "shape_3", []),
        ("CONSTANT", "", "zero", [{"weights": np.zeros(2, np.float32)}]),
    )
    assert not missing and [found[name] for name in "abcd"] == [0.5, 0.5, 0.5, 3.0]
    assert found["soft"] == 0.25, "what is calibrated comes before what is assumed"
    assert found["last"] == 1.0 / 127 and 0 < found["zero"] < 1e-7


def test_what_nothing_follows_for_is_named(tmp_path, caplog):
    layers = (
        ("MATRIX_MULTIPLY", "x x", "scores", []),
        ("ELEMENTWISE", "scores scores2", "products", PRODUCT),
        ("ELEMENTWISE", "scores products", "sum", SUM),
        ("SHUFFLE", "shape_1", "shape_2", []),
    )
    assert completed("8.5", {"x": 1.0}, *layers) == ({"x": 1.0}, ["products", "scores", "scores2", "sum"])
    (tmp_path / "c").write_text(_calibration.text({"x": 1.0}, "8.5.3"))
    trt = library("8.5")
    trt.IInt8EntropyCalibrator2 = type("IInt8EntropyCalibrator2", (), {})
    trt.LayerType = Flags(["CONVOLUTION"])
    with caplog.at_level("INFO"):
        tensorrt.calibrator(trt, tmp_path / "c", Network(BaseLayer(0, "x", "y"), BaseLayer(0, "y", "z")))
    assert "no scale for y, z: layers that touch them are not INT8" in caplog.text


# Timing caches


def test_timing_caches_are_kept_apart(monkeypatch, tmp_path):
    gpu = {"name": "NVIDIA H200", "compute_capability": "9.0", "driver": "13.0"}
    monkeypatch.delenv("LEVIT_TIMING_CACHES", raising=False)
    assert tensorrt.timing_cache_path("8.5.3.1", gpu) is None
    monkeypatch.setenv("LEVIT_TIMING_CACHES", str(tmp_path))
    paths = {tensorrt.timing_cache_path("8.5.3.1", gpu), tensorrt.timing_cache_path("10.3.0", gpu)}
    paths |= {tensorrt.timing_cache_path("8.5.3.1", {**gpu, key: "else"}) for key in gpu}
    assert len(paths) == 5 and all(path.parent == tmp_path for path in paths)


class Timings(dict):
    """A configuration that keeps a timing cache of text lines."""

    def create_timing_cache(self, data):
        if data.startswith(b"bad"):
            raise RuntimeError("no cache")
        return Cache(data.decode().split())

    def set_timing_cache(self, cache, ignore):
        self["cache"] = cache

    def get_timing_cache(self):
        return self["cache"]


class Cache(set):
    def combine(self, other, ignore):
        self |= other

    def serialize(self):
        return " ".join(sorted(self)).encode()


@pytest.mark.parametrize("before, after", [(None, b"new other"), (b"old", b"new old other"), (b"bad", b"new other")])
def test_builds_at_once_keep_all_timings(monkeypatch, tmp_path, before, after):
    monkeypatch.setenv("LEVIT_TIMING_CACHES", str(tmp_path))
    trt, gpu = library("8.5"), {"name": "H200", "compute_capability": "9.0", "driver": "13.0"}
    path, config = tensorrt.timing_cache_path(trt.__version__, gpu), Timings()
    if before:
        path.write_bytes(before)
    with tensorrt._timing_cache(trt, config, gpu) as known:
        config["cache"].add("new")
        path.write_bytes(b"other")  # another build was faster
    assert known == len(before or b"") and path.read_bytes() == after


def test_a_failing_timing_cache_loses_no_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("LEVIT_TIMING_CACHES", str(tmp_path))
    config = Timings()
    config.get_timing_cache = lambda: None
    with tensorrt._timing_cache(library("8.5"), config, {"name": "a", "compute_capability": "b", "driver": "c"}):
        pass
    assert not list(tmp_path.glob("*.timing"))
