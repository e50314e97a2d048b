"""Quantizers, calibration, quantization-aware training and the Q/DQ graph agree with each other."""

import copy
import importlib
import json

import numpy as np
import pytest
import torch
from test_graph import CLASS_PASSES, CLASSES, EVERYTHING, ROW, SIZE, trained_like

import train_qat
from data import preprocess
from files import UserError, read_json, write_json
from graph import onnxio, passes, qdq
from model import checkpoint, deploy, export
from quantization import quantizers


@pytest.fixture(scope="module")
def folded():
    return deploy.fold(trained_like())


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(8, 3, SIZE, SIZE, generator=generator) for _ in range(3)]


def calibrated(folded, batches, method="max"):
    model = quantizers.add(copy.deepcopy(folded), method)
    quantizers.calibrate(model, batches, method)
    return model


@pytest.fixture(scope="module")
def by_max(folded, batches):
    return calibrated(folded, batches)


def test_quantizers_are_exactly_the_graphs_slots(folded, by_max):
    clean = passes.apply(onnxio.imported(export.to_onnx(folded, SIZE)), CLASS_PASSES["cpu"])
    slots = {
        f"{qdq.module_of(node)}.{quantizer}"
        for node in clean.nodes
        for quantizer in qdq.SLOTS.get(qdq.kind_of(node), {}).values()
    }
    assert slots == set(quantizers.named(by_max))


def test_every_layer_attention_product_and_skip_has_its_quantizers(folded, by_max):
    found = set(quantizers.named(by_max))
    for name, module in folded.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            assert {f"{name}.input_quantizer", f"{name}.weight_quantizer"} <= found
            assert by_max.get_submodule(name).weight_quantizer.amax.numel() == module.weight.shape[0]
        if isinstance(module, deploy.MatMul):
            assert {f"{name}.a_quantizer", f"{name}.b_quantizer"} <= found
        if isinstance(module, deploy.ResidualAdd):
            assert f"{name}.skipped_quantizer" in found


def test_max_is_the_largest_magnitude_seen(folded, batches, by_max):
    seen = []
    hook = folded.stem.conv2.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].abs().max().item()))
    with torch.no_grad():
        for batch in batches:
            folded(batch)
    hook.remove()
    assert quantizers.ranges(by_max)["stem.conv2.input_quantizer"] == pytest.approx(max(seen), rel=1e-6)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_histogram_methods_clip_but_not_the_weights(folded, batches, by_max, method):
    largest, clipped = quantizers.ranges(by_max), quantizers.ranges(calibrated(folded, batches, method))
    activations = [name for name in largest if not name.endswith("weight_quantizer")]
    assert all(0 < clipped[name] <= largest[name] * 1.01 for name in activations)
    assert any(clipped[name] < 0.98 * largest[name] for name in activations)
    assert all(clipped[name] == largest[name] for name in largest if name not in activations)


def test_the_qdq_graph_computes_what_the_fake_quantized_network_does(folded, batches, by_max):
    clean = passes.apply(onnxio.imported(export.to_onnx(folded, SIZE)), CLASS_PASSES["cpu"])
    quantized = qdq.insert(clean, quantizers.ranges(by_max), EVERYTHING)
    got = onnxio.runner(onnxio.to_model(quantized)).run(None, {onnxio.INPUT: batches[0].numpy()})[0]
    with torch.no_grad():
        expected, plain = by_max(batches[0]).numpy(), folded(batches[0]).numpy()
    lost = np.abs(expected - plain).max()
    assert lost > 0 and np.abs(got - expected).max() < 0.25 * lost  # roundings of ties may fall apart, no more


def test_ranges_survive_the_json(folded, batches, by_max):
    again = quantizers.add(copy.deepcopy(folded))
    quantizers.load_ranges(again, json.loads(json.dumps(quantizers.ranges(by_max))))
    with torch.no_grad():
        assert torch.equal(again(batches[0]), by_max(batches[0]))


def test_ranges_of_another_network_are_refused(folded, by_max):
    ranges = quantizers.ranges(by_max)
    ranges["stages.9.qkv.input_quantizer"] = ranges.pop("stem.conv1.input_quantizer")
    with pytest.raises(UserError, match=r"2 quantizers differ \(stages.9.qkv.input_quantizer, stem.conv1.input_quant"):
        quantizers.load_ranges(quantizers.add(copy.deepcopy(folded)), ranges)


def test_an_unknown_method_is_named(folded):
    with pytest.raises(UserError, match="calibration.method 'median' is not known; there are: max, entropy, percentile"):
        quantizers.add(copy.deepcopy(folded), "median")


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_images_that_are_no_numbers_are_refused(folded, value, message):
    with pytest.raises(UserError, match=f"calibration: detected {message} values in amax.*; check the checkpoint and the images"):
        quantizers.ranges(calibrated(folded, [torch.full((1, 3, SIZE, SIZE), value)]))


def test_a_dead_layer_has_a_range_of_its_own(folded, batches):
    dead = copy.deepcopy(folded)
    dead.stem.conv2.weight.data[0] = 0
    ranges = quantizers.ranges(calibrated(dead, batches))
    assert ranges["stem.conv2.weight_quantizer"][0] == pytest.approx(quantizers.SMALLEST)


def test_distillation_is_zero_for_equal_logits_and_grows():
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    assert train_qat.distillation(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-6)
    far, near = (train_qat.distillation(logits + d * torch.arange(10.0), logits, 2.0).item() for d in (1.0, 0.1))
    assert far > near > 0


def test_state_splits_into_weights_and_ranges(folded, by_max, tmp_path):
    checkpoint.save(quantizers.state(by_max), tmp_path / "qat.pth")
    weights, amax = quantizers.split_state(checkpoint.read(tmp_path / "qat.pth"))
    assert amax == quantizers.ranges(by_max)
    checkpoint.load_state(copy.deepcopy(folded), weights, "qat.pth")


VISION = {**ROW, "crop": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.25] * 3}
AUGMENTATION = {"crop_scale": [0.8, 1.0], "crop_ratio": [0.9, 1.1], "flip": 0.0}
QAT = {"epochs": 1, "batch": 32, "learning_rate": 3e-4, "temperature": 1.0}
CLIPPED = 0.3  # of the calibrated range: a start that quantization-aware training has something to repair in


class Digits:
    """Runs the commands, in this process, on digits at 64 px in one folder."""

    def __init__(self, folder):
        self.folder = folder

    def __getitem__(self, name):
        return str(self.folder / name)

    def run(self, script, **options):
        module = importlib.import_module(script)
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
        args = [f"--{name.replace('_', '-')}={text}" for name, text in texts.items()]
        module.produce(module.command().parser.parse_args(args))

    def qat(self, name, **changes):
        self.run(
            "train_qat",
            **{"checkpoint": self["m.pth"], "calibration": self["clipped.json"], "index": self["index.json"]},
            **{"model": VISION, "classes": CLASSES, "seed": 0, "augmentation": AUGMENTATION},
            **{"recipe": {**QAT, **changes}, "qat": self[name], "device": "cpu"},
        )
        return self.folder / name


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Index and calibration images of digits, a random checkpoint, ranges that clip."""
    made = Digits(tmp_path_factory.mktemp("digits"))
    row = {"builtin": "digits", "classes": CLASSES, "splits": {"calib": 64, "select": 200}}
    made.run("index_dataset", dataset=row, seed=0, index=made["index.json"], images_root=made["images"])
    geometry = {name: VISION[name] for name in ("size", "crop", "interpolation")}
    made.run("decode_split", index=made["index.json"], geometry=geometry, split="calib", images=made["calib.u8"])
    checkpoint.save(trained_like().state_dict(), made["m.pth"])
    made.run(
        "calibrate",
        **{"checkpoint": made["m.pth"], "images": made["calib.u8"], "model": VISION, "classes": CLASSES},
        **{"recipe": {"method": "max", "images": 64}, "calibration": made["c.json"]},
    )
    found = read_json(made["c.json"])
    clipped = {n: a if n.endswith("weight_quantizer") else CLIPPED * a for n, a in found["amax"].items()}
    write_json(made["clipped.json"], {**found, "amax": clipped})
    return made


def test_calibration_says_how_many_images_it_used(digits):
    found = read_json(digits["c.json"])
    assert (found["method"], found["images"]) == ("max", 64) and found["amax"]


def test_qat_brings_the_quantized_network_nearer_to_fp32(digits):
    teacher = deploy.fold(trained_like())
    images = np.load(digits["calib.u8"])
    inputs = torch.from_numpy(preprocess.normalize(images, VISION["mean"], VISION["std"]))
    losses = []
    before = quantizers.state(quantizers.add(copy.deepcopy(teacher)))
    starts = {name: value for name, value in before.items() if "_quantizer" not in name}
    for weights, amax in (
        (starts, read_json(digits["clipped.json"])["amax"]),
        quantizers.split_state(checkpoint.read(digits.qat("qat.pth"))),
    ):
        student = checkpoint.load_state(copy.deepcopy(teacher), weights, "qat.pth")
        student = quantizers.add(student)
        quantizers.load_ranges(student, amax)
        with torch.no_grad():
            losses.append(train_qat.distillation(student(inputs), teacher(inputs), 1.0).item())
    assert losses[1] < 0.7 * losses[0]


def test_qat_gives_the_same_bytes_twice(digits):
    assert digits.qat("a.pth", batch=400).read_bytes() == digits.qat("b.pth", batch=400).read_bytes()


def test_a_batch_larger_than_the_training_split_is_refused(digits):
    with pytest.raises(UserError, match="qat.batch 2000 is more than the 1237 training images"):
        digits.qat("c.pth", batch=2000)


@pytest.mark.parametrize("cls", sorted(CLASS_PASSES))
def test_quantize_onnx_writes_a_graph_for_ptq_and_qat(digits, cls):
    for qat in ("", str(digits.qat("short.pth", batch=400))):
        digits.run(
            "quantize_onnx",
            **{"checkpoint": digits["m.pth"], "qat": qat, "calibration": digits["c.json"], "model": VISION},
            **{"classes": CLASSES, "passes": CLASS_PASSES[cls], "placement": EVERYTHING, "quantized": digits["q.onnx"]},
        )
        recipe = {"compute": "int8", "high_precision": "fp32"}
        digits.run("type_onnx", onnx=digits["q.onnx"], recipe=recipe, typed=digits["t.onnx"])
        assert (digits.folder / "t.onnx").read_bytes() == (digits.folder / "q.onnx").read_bytes()
        assert onnxio.outputs(onnxio.load(digits["q.onnx"]), 2).shape == (2, CLASSES)
