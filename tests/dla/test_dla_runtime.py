"""A network's place on a DLA and what a builder says of it, on TensorRT's recorded interface: no DLA is at hand."""

import types

import pytest
from test_result import VALID
from test_tensorrt import INT8, SURFACES, Config, Flags, library

import assemble_result
import compare_dla
from core.files import UserError, write_json
from dla.compare import compare
from reporting import result_file
from runtimes import _dla, _tensorrt, tensorrt

KINDS = ("CONVOLUTION", "ELEMENTWISE", "SHUFFLE", "SLICE", "MATRIX_MULTIPLY", "SOFTMAX", "POOLING", "CONSTANT")
IMAGE = (1, 16, 8, 8)


class Layer:
    """A layer in the form that a network gives it: `name inputs outputs`."""

    num_groups, kernel_size_nd = 1, (3, 3)  # seen once a convolution has its own class

    def __init__(self, trt, kind, text, shape=IMAGE, supported=True):
        self.name, inputs, outputs = text.split()
        self.type, self.supported = getattr(trt.LayerType, kind), supported
        self.tensors = [
            [types.SimpleNamespace(name=n, shape=shape) for n in names.split(",")] for names in (inputs, outputs)
        ]
        self.num_inputs, self.num_outputs = (len(tensors) for tensors in self.tensors)

    def get_input(self, number):
        return self.tensors[0][number]

    def get_output(self, number):
        return self.tensors[1][number]


class DlaConfig(Config):
    """A configuration that answers for each layer whether a DLA takes it, and notes the layers' devices."""

    def __getattr__(self, name):
        if name in self.names and name == "can_run_on_DLA":
            return self.answer
        if name in self.names and name == "set_device_type":
            return lambda layer, device: self.noted.setdefault("devices", {}).update({layer.name: device})
        return super().__getattr__(name)

    def answer(self, layer):
        self.noted.setdefault("asked", []).append(layer.name)
        return layer.supported


class Network:
    """A network of rows (kind, text, more): layers, and one input with a free batch."""

    num_inputs = 1

    def __init__(self, trt, *rows):
        self.layers = [Layer(trt, kind, text, **(more[0] if more else {})) for kind, text, *more in rows]
        self.num_layers, self.entry = len(self.layers), types.SimpleNamespace(name="input_0", shape=(-1, 3, 4, 4))

    def get_layer(self, number):
        return self.layers[number]

    def get_input(self, number):
        return self.entry


def dla_library(version):
    trt = types.ModuleType("tensorrt")  # which, unlike a namespace, has a logger of its own
    vars(trt).update(vars(library(version)))
    trt.LayerType, trt.IConvolutionLayer = Flags(KINDS), Layer
    trt.DeviceType = types.SimpleNamespace(DLA="dla", GPU="gpu")
    trt.ILogger = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0, "WARNING": 2, "INFO": 3, "VERBOSE": 4})
    return trt


GPU = [{"supported": False}]
ATTENTION = (
    ("CONVOLUTION", "qkv x a"),
    ("SHUFFLE", "heads a h", *GPU),
    ("SLICE", "q h q1"),
    ("MATRIX_MULTIPLY", "qk q1,h s", *GPU),
    ("ELEMENTWISE", "bias s t"),
    ("SOFTMAX", "soft t p"),
    ("MATRIX_MULTIPLY", "av p,h o", *GPU),
    ("SHUFFLE", "joined o j"),
    ("ELEMENTWISE", "act j k"),
    ("CONVOLUTION", "proj k l"),
    ("ELEMENTWISE", "sum x,l y"),
)


def placed(version, *rows, recipe=None, cores=2):
    """Return (what is said of the placement, what the configuration noted, the network) of a version."""
    trt = dla_library(version)
    network, config = Network(trt, *rows), DlaConfig(SURFACES[version]["IBuilderConfig"])
    builder = types.SimpleNamespace(num_DLA_cores=cores)
    found = tensorrt._configure(trt, builder, config, network, {**INT8, "dla": True, "batches": [1], **(recipe or {})})
    return found, config.noted, network


@pytest.mark.parametrize("version", ["8.4", "8.5", "10"])
def test_only_subgraphs_with_convolutions_go_to_the_dla(version):
    found, noted, network = placed(version, *ATTENTION)
    assert found == {"layers": 11, "supported": 8, "subgraphs": [["qkv"], ["act", "proj", "sum"]]}
    assert set(noted["devices"].values()) == {"gpu"}
    assert sorted(noted["devices"]) == sorted({"heads", "q", "qk", "bias", "soft", "av", "joined"})
    assert noted["asked"] == [layer.name for layer in network.layers], "each layer is asked for once"


def test_it_has_a_core_a_fallback_and_one_batch():
    found, noted, network = placed("8.5", *ATTENTION, recipe={"batches": [4]})
    flags = {
        name for name in SURFACES["8.5"]["BuilderFlag"] if getattr(library("8.5").BuilderFlag, name) in noted["flags"]
    }
    assert {"GPU_FALLBACK", "FP16", "INT8"} <= flags
    assert noted["default_device_type"] == "dla" and noted["DLA_core"] == 0
    assert network.entry.shape == (4, 3, 4, 4) and noted["profiles"] == [], "a fixed size has no profile"


def test_where_there_is_no_dla_no_layer_is_asked_for():
    with pytest.raises(UserError, match="TensorRT finds none here"):
        placed("8.5", *ATTENTION, cores=0)
    trt = dla_library("8.5")
    config = DlaConfig(SURFACES["8.5"]["IBuilderConfig"])
    with pytest.raises(UserError):
        tensorrt._use_dla(trt, types.SimpleNamespace(num_DLA_cores=0), config, Network(trt, *ATTENTION), [1])
    assert "asked" not in config.noted and "default_device_type" not in config.noted


def test_several_batches_are_refused():
    with pytest.raises(UserError, match="an engine on a DLA has one batch, not 2"):
        placed("8.5", *ATTENTION, recipe={"batches": [1, 8]})


def test_a_network_without_a_convolution_for_it_is_refused():
    with pytest.raises(UserError, match="can take no convolution of this network"):
        placed("8.5", ("CONVOLUTION", "a x a", *GPU), ("ELEMENTWISE", "b a b"))


def test_at_most_16_are_loaded_and_those_of_most_work():
    rows = []
    for n in range(20):
        shape = (1, 16, 8, 8 + n)
        rows += [("CONVOLUTION", f"c{n} t{n} c{n}", {"shape": shape}), ("SOFTMAX", f"s{n} c{n} t{n + 1}", *GPU)]
    found, _, _ = placed("8.5", *rows)
    assert found["subgraphs"] == [[f"c{n}"] for n in range(4, 20)]


def test_other_engines_have_no_part_in_it():
    trt = dla_library("8.5")
    network, config = Network(trt, *ATTENTION), DlaConfig(SURFACES["8.5"]["IBuilderConfig"])
    profile = types.SimpleNamespace(set_shape=lambda *shapes: None)
    builder = types.SimpleNamespace(num_DLA_cores=2, create_optimization_profile=lambda: profile)
    assert tensorrt._configure(trt, builder, config, network, INT8) is None
    assert "asked" not in config.noted and network.entry.shape[0] == -1


# What a builder says, in the forms that TensorRT's logs have

LOG_8_4 = """\
[15:30:16] [W] [TRT] Default DLA is enabled but layer const_7 is not supported on DLA, falling back to GPU.
[22:30:16] [E] Error[10]: act/Gate: ActivationLayer (with ActivationType = HARD_SIGMOID) not supported for DLA.
[22:30:16] [W] [TRT] Default DLA is enabled but layer act/Gate is not supported on DLA, falling back to GPU.
[22:30:16] [W] [TRT] DLA only supports FP16 and Int8 precision type. Switching Shape_22 device type to GPU.
[22:30:16] [W] [TRT] qk/MatMul: MatMul is unsupported on DLA, relax constraints or use Convolution layer instead.
[22:30:16] [W] [TRT] Default DLA is enabled but layer qk/MatMul is not supported on DLA, falling back to GPU.
[22:30:17] [V] [TRT] {ForeignNode[stem/Conv...qkv/Conv]} successfully offloaded to DLA.
[22:30:17] [V] [TRT] Memory consumption details:
[22:30:18] [V] [TRT] DLA Memory Consumption Summary:
[22:30:18] [V] [TRT] \tNumber of DLA node candidates offloaded : 2 out of 5
[22:30:18] [V] [TRT] After DLA optimization: 416 layers
[03:11:33] [I] [TRT] ---------- Layers Running on DLA ----------
[03:11:33] [I] [TRT] [DlaLayer] {ForeignNode[stem/Conv...qkv/Conv]}
[03:11:33] [I] [TRT] [DlaLayer] {ForeignNode[c + (Unnamed Layer* 52) [Shuffle] + act/Shift...head/Conv]}
[03:11:33] [I] [TRT] ---------- Layers Running on GPU ----------
[03:11:33] [I] [TRT] [GpuLayer] SHUFFLE: Reshape_29 + Transpose_30
[03:11:33] [I] [TRT] [GpuLayer] SOFTMAX: soft
"""
MESSAGES_10 = [
    "Layer 'attn/Reshape' (SHUFFLE): Unsupported on DLA. Switching this layer's device type to GPU.",
    "attn/Slice: DLA only supports slicing 4 dimensional tensors.",
    "Layer 'attn/Slice' (SLICE): Unsupported on DLA. Switching this layer's device type to GPU.",
    "This version of DLA does not support reshape layers directly connected to Slice or Concat",
    "Validation failed for DLA layer: attn/Reshape_1. Switching to GPU fallback.",
    "Splitting DLA subgraph at: attn/Reshape_1 because DLA validation failed for this layer.",
    "---------- Layers Running on DLA ----------",
    "[DlaLayer] {ForeignNode[stem/Conv]}",
    "---------- Layers Running on GPU ----------",
    "[GpuLayer] soft",
]


def test_a_log_of_trtexec():
    found = _dla.read_log([LOG_8_4])
    assert found["subgraphs"] == [
        ["stem/Conv", "qkv/Conv"],
        ["c + (Unnamed Layer* 52) [Shuffle] + act/Shift", "head/Conv"],
    ]
    assert (found["offloaded"], found["candidates"]) == (2, 5)
    assert found["gpu"] == ["Reshape_29 + Transpose_30", "soft"]
    assert found["fallback"] == {
        "const_7": None,
        "Shape_22": None,
        "act/Gate": "ActivationLayer (with ActivationType = HARD_SIGMOID) not supported for DLA.",
        "qk/MatMul": "MatMul is unsupported on DLA, relax constraints or use Convolution layer instead.",
    }


def test_messages_of_a_logger():
    found = _dla.read_log(MESSAGES_10)
    assert found["subgraphs"] == [["stem/Conv", "stem/Conv"]] and found["gpu"] == ["soft"]
    assert found["fallback"]["attn/Slice"] == "DLA only supports slicing 4 dimensional tensors."
    assert found["split"] == ["attn/Reshape_1"] and "attn/Reshape_1" in found["fallback"]
    assert found["offloaded"] is None


def test_what_says_nothing_of_a_dla():
    assert _dla.read_log(["some tactics do not have sufficient workspace", "LayerType: CONVOLUTION"]) is None


def test_the_logger_keeps_what_the_builder_says_of_a_dla():
    trt = dla_library("8.5")
    logger = _tensorrt.logger_of(trt)
    for severity, text in [(3, m) for m in MESSAGES_10] + [(2, "Weights are subnormal"), (4, "Timing Runner: x")]:
        logger.log(severity, text)
    logger.log(2, "Default DLA is enabled but layer y is not supported on DLA, falling back to GPU.")
    warnings, layers, found = _tensorrt.take_build_log(trt)
    assert warnings == ["Weights are subnormal"] and layers is None
    assert found["subgraphs"] == [["stem/Conv", "stem/Conv"]] and "y" in found["fallback"]
    assert _tensorrt.take_build_log(trt) == ([], None, None)


# The prediction beside it

REPORT = {
    "subgraphs": [
        {"number": 1, "nodes": ["stem/Conv", "qkv/Conv"]},
        {"number": 2, "nodes": ["act/Shift", "act/Clip", "head/Conv"]},
    ],
    "prediction": {"verdict": "not worth it", "sentence": "not worth it: ..."},
}
PLACED = {"layers": 9, "supported": 7, "subgraphs": [["stem/Conv"]]}


@pytest.mark.parametrize(
    "log, same, missing, unexpected",
    [
        ([LOG_8_4], True, [], []),
        (MESSAGES_10, False, [2], []),
        ([LOG_8_4, "[DlaLayer] {ForeignNode[bias/Add]}"], False, [], [["bias/Add", "bias/Add"]]),
    ],
)
def test_a_prediction_beside_the_build(log, same, missing, unexpected):
    found = compare(REPORT, {"dla": {"placed": PLACED, "built": _dla.read_log(log)}})
    assert (found["same"], found["missing"], found["unexpected"]) == (same, missing, unexpected)
    assert found["predicted"]["verdict"] == "not worth it" and found["placed"] == PLACED


def test_the_result_says_both_in_short(tmp_path):
    write_json(tmp_path / "c.json", compare(REPORT, {"dla": {"placed": PLACED, "built": _dla.read_log([LOG_8_4])}}))
    found = assemble_result.dla_of(str(tmp_path / "c.json"))
    short = {"verdict": "not worth it", "predicted_subgraphs": 2, "built_subgraphs": 2, "same": True}
    assert found == {**short, "path": str(tmp_path / "c.json")} and assemble_result.dla_of(None) is None
    result_file.check({**VALID, "dla": found})


def test_a_builder_that_tells_nothing_agrees_with_nothing():
    found = compare(REPORT, {"dla": {"placed": PLACED, "built": None}})
    assert found["same"] is None and "does not report" in compare_dla.format_built(found)
