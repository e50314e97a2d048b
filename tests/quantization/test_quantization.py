"""Quantizers, ranges and the Q/DQ graph agree with each other, and the commands that write them."""

import json

import numpy as np
import pytest
import torch
from test_graph import CLASS_PASSES, CLASSES, EVERYTHING, SIZE, deployed, trained_like

import sweep_calibration
from core.files import UserError, canonical, read_json
from graph import onnx_io, passes, qdq
from model import checkpoint, deploy, export
from quantization import amax
from quantizing import VISION, Digits, calibrated, quantized, random_images

EVERY_PART = {"equalize": True, "smoothing": 0.5, "bias_correction": True, "weights": "mse"}


@pytest.fixture(scope="module")
def folded():
    return deployed(trained_like())


@pytest.fixture(scope="module")
def images():
    return random_images()


@pytest.fixture(scope="module")
def by_max(folded, images):
    return calibrated(folded, images)[1]


def ranges_of(network):
    """Return what a network's quantizers hold, read through its state dict."""
    return amax.split_state(network.state_dict())[1]


def test_quantizers_are_exactly_the_graphs_slots(folded, by_max):
    clean = passes.apply(onnx_io.from_model(export.to_onnx(folded, SIZE)), CLASS_PASSES["cpu"])
    slots = {
        f"{qdq.module_of(node)}.{quantizer}"
        for node in clean.nodes
        for quantizer in qdq.SLOTS.get(qdq.kind_of(node), {}).values()
    }
    assert slots == set(amax.quantizers(by_max))


def test_every_layer_attention_product_and_skip_has_its_quantizers(folded, by_max):
    found = set(amax.quantizers(by_max))
    for name, module in folded.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            assert {f"{name}.input_quantizer", f"{name}.weight_quantizer"} <= found
            assert by_max.get_submodule(name).weight_quantizer.amax.numel() == module.weight.shape[0]
        if isinstance(module, deploy.MatMul):
            assert {f"{name}.a_quantizer", f"{name}.b_quantizer"} <= found
        if isinstance(module, deploy.ResidualAdd):
            assert f"{name}.skipped_quantizer" in found


def test_the_qdq_graph_computes_what_the_fake_quantized_network_does(folded, images, by_max):
    clean = passes.apply(onnx_io.from_model(export.to_onnx(folded, SIZE)), CLASS_PASSES["cpu"])
    graph = qdq.insert(clean, ranges_of(by_max), EVERYTHING)
    got = onnx_io.runner(onnx_io.to_model(graph)).run(None, {onnx_io.INPUT: images[:8].numpy()})[0]
    with torch.no_grad():
        expected, plain = by_max(images[:8]).numpy(), folded(images[:8]).numpy()
    lost = np.abs(expected - plain).max()
    assert lost > 0 and np.abs(got - expected).max() < 0.25 * lost  # roundings of ties may fall apart, no more


def test_ranges_survive_the_json(folded, images, by_max):
    again = quantized(folded)
    amax.load(again, json.loads(json.dumps(ranges_of(by_max))))
    with torch.no_grad():
        assert torch.equal(again(images[:8]), by_max(images[:8]))


def test_ranges_of_another_network_are_refused(folded, by_max):
    ranges = ranges_of(by_max)
    ranges["stages.9.qkv.input_quantizer"] = ranges.pop("stem.conv1.input_quantizer")
    with pytest.raises(UserError, match=r"2 quantizers differ \(stages.9.qkv.input_quantizer, stem.conv1.input_quant"):
        amax.load(quantized(folded), ranges)


def test_state_splits_into_weights_and_ranges(folded, images, by_max, tmp_path):
    checkpoint.save(by_max.state_dict(), tmp_path / "qat.pth")
    weights, ranges = amax.split_state(checkpoint.read(tmp_path / "qat.pth"))
    found = calibrated(folded, images)[0]["amax"]
    assert ranges.keys() == found.keys()
    assert all(np.allclose(ranges[name], found[name], rtol=1e-6) for name in found)
    checkpoint.load_state(deployed(trained_like()), weights, "qat.pth")


# The commands


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return Digits(tmp_path_factory.mktemp("digits"))


def test_calibration_says_how_many_images_it_used(digits):
    found = digits.calibrate("c.json")
    assert (found["method"], found["images"]) == ("max", 64) and found["amax"]
    assert found["scaling"] == found["bias"] == {}


@pytest.mark.parametrize("cls", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)])
def test_quantize_onnx_writes_the_graph_of_a_calibration_with_every_part(digits, cls):
    digits.calibrate("every.json", **EVERY_PART)
    options = {
        "checkpoint": digits["m.pth"],
        "calibration": digits["every.json"],
        "images": digits["calib.u8"],
        "model": digits.model,
        "classes": CLASSES,
    }
    digits.run("quantize_onnx", **options, passes=CLASS_PASSES[cls], placement=EVERYTHING, quantized=digits["q.onnx"])
    digits.run(
        "type_onnx",
        **{"onnx": digits["q.onnx"], "recipe": {"compute": "int8", "high_precision": "fp32"}},
        typed=digits["t.onnx"],
    )
    assert (digits.folder / "t.onnx").read_bytes() == (digits.folder / "q.onnx").read_bytes()
    network = calibrated(digits.folded(), pixels(digits), **EVERY_PART)[1]
    run = onnx_io.runner(onnx_io.to_model(onnx_io.load(digits["q.onnx"])))
    shown = pixels(digits)[:16]
    with torch.no_grad():
        expected, plain = network(shown).numpy(), digits.folded()(shown).numpy()
    [got] = run.run(None, {onnx_io.INPUT: shown.numpy()})
    assert got.shape == (16, CLASSES)
    off, lost = (np.abs(other - expected).mean() for other in (got, plain))
    assert lost > 0 and off < 0.25 * lost


def pixels(digits, split="calib"):
    from quantization import calibration_images

    return calibration_images.CalibrationImages(digits[f"{split}.u8"], 64, VISION)[:]


def test_layers_that_are_not_quantized_keep_their_biases(digits):
    """A bias is corrected for an error of quantization: a graph without those quantizers has none."""
    digits.calibrate("bias.json", bias_correction=True)
    options = {
        "checkpoint": digits["m.pth"],
        "calibration": digits["bias.json"],
        "images": digits["calib.u8"],
        "model": digits.model,
        "classes": CLASSES,
    }
    for placement in ([], ["linear"]):
        digits.run(
            "quantize_onnx", **options, passes=CLASS_PASSES["cpu"], placement=placement, quantized=digits["q.onnx"]
        )
        graph = onnx_io.load(digits["q.onnx"])
        first = next(node for node in graph.nodes if node.op == "Conv")
        assert np.array_equal(first.inputs[2].values, digits.folded().stem.conv1.bias.numpy(force=True))
        if not placement:
            run = onnx_io.runner(onnx_io.to_model(graph)).run(None, {onnx_io.INPUT: pixels(digits)[:4].numpy()})[0]
            with torch.no_grad():
                assert np.allclose(run, digits.folded()(pixels(digits)[:4]).numpy(), atol=1e-4)


def test_a_sweep_measures_every_candidate_and_its_choice_is_calibrated(digits):
    candidates = [{"method": "percentile", "percentile": 50.0}, {"method": "max", **EVERY_PART}, {"method": "max"}]
    options = {"checkpoint": digits["m.pth"], "images": digits["calib.u8"], "model": digits.model, "classes": CLASSES}
    options["threads"] = "1"
    recipe = {"images": 64, "candidates": candidates}
    digits.run(
        "sweep_calibration",
        **{**options, "select": digits["select.u8"], "index": digits["index.json"], "recipe": recipe},
        sweep=digits["sweep.json"],
    )
    found = read_json(digits["sweep.json"])
    assert sorted(map(canonical, candidates)) == sorted(canonical(row["recipe"]) for row in found["candidates"])
    divergences = [row["kl"] for row in found["candidates"]]
    assert divergences == sorted(divergences) and divergences[0] < divergences[-1]
    assert found["chosen"] == found["candidates"][0]["recipe"] != candidates[0]
    assert found["num_images"] == 100 and "least KL divergence" in found["why"]
    digits.run(
        "calibrate",
        **{**options, "sweep": digits["sweep.json"], "recipe": {"method": "sweep", "images": 64}},
        calibration=digits["swept.json"],
    )
    assert read_json(digits["swept.json"])["amax"] == digits.calibrate("direct.json", **found["chosen"])["amax"]


def test_a_sweeps_table_prefers_the_simpler_of_equals():
    figures = {"kl": 0.5, "net_lost": 0, "top1": 90.0, "agreement_with_fp32": 99.0, "max_abs_logit_error": 0.1}
    rows = [{"recipe": {"method": "max", "equalize": True}, **figures}, {"recipe": {"method": "max"}, **figures}]
    assert sweep_calibration.summary(rows, 512, 200, 91.0)["chosen"] == {"method": "max"}
