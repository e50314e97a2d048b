"""Ranges from histograms, scalings that change no result, bias correction, and images that are no use."""

import copy
import math
import sys
import types

import pytest
import torch
from test_graph import SIZE, deployed, trained_like

from core.files import UserError
from model import checkpoint, formats
from quantization import (
    amax,
    backends,
    bias_correction,
    calibration_images,
    calibrator,
    histograms,
    imported_ranges,
    methods,
    scaling,
)
from quantization.distillation import divergence
from quantizing import Digits, calibrated, quantized, random_images


@pytest.fixture(scope="module")
def folded():
    return deployed(trained_like())


@pytest.fixture(scope="module")
def batch():
    return random_images()


@pytest.fixture(scope="module")
def seen(folded, batch):
    return histograms.collect(quantized(folded), batch)


def histogram(values):
    made = histograms.Histogram()
    for part in values.split(len(values) // 4):
        made.add(part[None], (1,))
    return made


# Statistics


def test_a_histogram_counts_every_value_while_its_span_grows():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.01, 30, 4000)
    made = histogram(values)
    assert made.counts.sum() == len(values) and made.largest == values.abs().max().item()
    assert made.span / 2 < made.largest <= made.span and math.log2(made.span).is_integer()
    expected = torch.histc(values.abs(), histograms.BINS, 0, made.span)
    assert torch.equal(made.counts.float(), expected)


def test_max_is_the_largest_magnitude_seen(folded, batch):
    largest = []
    hook = folded.stem.conv2.register_forward_hook(lambda _, inputs, __: largest.append(inputs[0].abs().max().item()))
    with torch.no_grad():
        folded(batch)
    hook.remove()
    assert calibrated(folded, batch)[0]["amax"]["stem.conv2.input_quantizer"] == pytest.approx(max(largest), rel=1e-6)


def test_any_number_of_threads_counts_the_same(folded, batch, monkeypatch):
    monkeypatch.setattr(histograms, "BATCH", 2)  # several batches for each thread
    found, threads = [], torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(histograms.collect(quantized(folded), batch))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    alone, shared = ({name: each.__dict__ for name, each in one.items()} for one in found)
    assert alone.keys() == shared.keys() and len(batch) >= 8
    for name, one in alone.items():
        assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(shared[name][key])) for key in one), name


def test_bounds_alone_give_the_same_ranges_by_max(folded, batch):
    recipe = {"method": "max", "bias_correction": True}
    assert not calibrator.needs_counts(recipe) and calibrator.needs_counts({**recipe, "equalize": True})
    found = [calibrator.Calibrator(folded, batch, counted=counted).calibrate(recipe)[0] for counted in (True, False)]
    assert found[0] == found[1]
    uncounted = histograms.collect(quantized(folded), batch, counted=False)
    assert all(each.largest > 0 and not each.counts.any() for each in uncounted.values())


def test_statistics_are_collected_once_for_all_methods(folded, batch):
    counted = []
    calibrations = calibrator.Calibrator(folded, batch, counted.append)
    for method in methods.METHODS:
        calibrations.calibrate({"method": method, "weights": "mse", "bias_correction": True})
    assert sum(counted) == len(batch)


# Methods


def test_every_method_has_the_least_error_of_its_own_kind():
    values = torch.cat([torch.randn(40000, generator=torch.Generator().manual_seed(1)), torch.tensor([30.0] * 4)])
    made = histogram(values[torch.randperm(len(values), generator=torch.Generator().manual_seed(2))])
    found = {name: method(made, {"percentile": 99.9}) for name, method in methods.METHODS.items()}
    assert found["max"] == 30.0
    assert found["percentile"] == pytest.approx(values.abs().quantile(0.999).item(), rel=0.01)
    assert 3 < found["entropy"] < 10

    def error(span):
        scale = span / methods.QMAX
        return (torch.round(values / scale).clamp(-128, 127) * scale - values).square().sum().item()

    assert error(found["mse"]) <= min(error(30.0 * k / 64) for k in range(8, 65)) * 1.02
    assert error(found["mse"]) < error(found["max"]) and error(found["mse"]) < error(found["percentile"])


def test_mse_keeps_the_whole_range_where_nothing_is_an_outlier():
    values = torch.linspace(-1, 1, 20000)[torch.randperm(20000, generator=torch.Generator().manual_seed(0))]
    assert methods.mse(histogram(values), {}) > 0.98


def test_entropy_does_not_clip_probabilities(seen):
    probabilities = [name for name in seen if name.endswith("av.a_quantizer")]
    assert probabilities
    assert all(methods.entropy(seen[name], {}) == seen[name].largest for name in probabilities)


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_methods_clip_activations_but_not_weights(folded, batch, method):
    largest, clipped = (
        calibrated(folded, batch, **row)[0]["amax"] for row in ({}, {"method": method, "percentile": 99.0})
    )
    activations = [name for name in largest if not name.endswith("weight_quantizer")]
    assert all(0 < clipped[name] <= largest[name] for name in activations)
    assert any(clipped[name] < 0.98 * largest[name] for name in activations)
    assert all(clipped[name] == largest[name] for name in largest if name not in activations)


def test_weights_by_mse_have_less_error_in_every_channel():
    weight = torch.randn(8, 64, 25, 25, generator=torch.Generator().manual_seed(4))
    weight[:, 0, 0, 0] = 9
    errors = []
    for method in (methods.weight_max, methods.weight_mse):
        scale = (method(weight) / methods.QMAX)[:, None, None, None]
        off = torch.round(weight / scale).clamp(-128, 127) * scale - weight
        errors.append(off.square().flatten(1).sum(dim=1))
    assert (errors[1] <= errors[0]).all() and errors[1].sum() < 0.97 * errors[0].sum()


def test_an_unknown_method_is_named(folded, batch):
    with pytest.raises(UserError, match="method 'median' is not known; there are: max, entropy, percentile, mse"):
        calibrated(folded, batch, method="median")


def test_a_dead_layer_has_a_range_of_its_own(folded, batch):
    dead = copy.deepcopy(folded)
    dead.stem.conv2.weight.data[0] = 0
    for weights in methods.WEIGHTS:
        ranges = calibrated(dead, batch, weights=weights)[0]["amax"]
        assert ranges["stem.conv2.weight_quantizer"][0] == pytest.approx(methods.SMALLEST)


# Scaling


@pytest.mark.parametrize(
    "row", [{"equalize": True}, {"smoothing": 0.5}, {"smoothing": 0.95, "equalize": True}], ids=str
)
def test_scaling_leaves_float_results_as_they_are_bit_for_bit(folded, batch, seen, row):
    found = scaling.find(folded, seen, row)
    scaled = scaling.apply(copy.deepcopy(folded), found)
    assert any(factor != 1 for parts in found.values() for factors in parts.values() for factor in factors)
    with torch.no_grad():
        assert torch.equal(scaled(batch), folded(batch))


def test_equalizing_gives_queries_and_keys_like_ranges(folded, batch):
    lopsided = copy.deepcopy(folded)
    attention = lopsided.stages[0].blocks[0].attn
    rows = torch.arange(attention.qkv.out_features) % (2 * attention.key_dim + attention.val_dim)
    for chosen, factor in ((rows == 3, 64.0), (rows == attention.key_dim + 3, 1 / 64)):
        attention.qkv.weight.data[chosen] *= factor
        attention.qkv.bias.data[chosen] *= factor
    plain, equalized = (calibrated(lopsided, batch, equalize=wanted)[0]["amax"] for wanted in (False, True))
    name = "stages.0.blocks.0.attn.qk.a_quantizer"
    assert equalized[name] < plain[name] / 8


def test_smoothing_helps_where_the_stream_has_an_outlier(folded, batch):
    """A channel that is 60 times the others leaves them few levels, until weights take part of it over."""
    spiky = copy.deepcopy(folded)
    writers, readers = next(scaling.streams(spiky))
    factors = torch.ones(spiky.get_submodule(readers[0]).in_features)
    factors[5] = 1 / 64
    for name in writers:
        scaling.apply(spiky, {name: {"rows": (1 / factors).tolist()}})
    for name in readers:
        scaling.apply(spiky, {name: {"columns": factors.tolist()}})
    networks = [spiky, *(calibrated(spiky, batch, smoothing=alpha)[1] for alpha in (0, 0.9))]
    float_scores, *scores = (scores_of(network, batch) for network in networks)
    plain, smoothed = ((found - float_scores).square().mean() for found in scores)
    assert smoothed < 0.5 * plain


def scores_of(network, batch):
    """Return the attention scores of a network's first block, which no scaling changes."""
    found = []
    hook = network.stages[0].blocks[0].attn.qk.register_forward_hook(lambda _, __, output: found.append(output))
    with torch.no_grad():
        network(batch)
    hook.remove()
    return found[0]


# Bias correction


def mean_outputs(network, batch):
    """Return {layer: mean output of each channel}."""
    found, hooks = {}, []
    for name, module in network.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            channels = 1 if isinstance(module, torch.nn.Conv2d) else -1

            def observe(_, __, output, name=name, channels=channels):
                found[name] = output.movedim(channels, -1).flatten(0, -2).mean(dim=0)

            hooks.append(module.register_forward_hook(observe))
    with torch.no_grad():
        network(batch)
    for hook in hooks:
        hook.remove()
    return found


def test_corrected_layers_have_the_mean_output_of_the_float_network(folded, batch):
    means = []
    plain, corrected = (calibrated(folded, batch, bias_correction=wanted)[1] for wanted in (False, True))
    for network in (folded, plain, corrected):
        layer = network.stages[1].blocks[0].mlp.ln2
        hook = layer.register_forward_hook(lambda _, __, output: means.append(output.mean(dim=(0, 1))))
        with torch.no_grad():
            network(batch)
        hook.remove()
    before, after = ((mean - means[0]).abs().max().item() for mean in means[1:])
    assert after < 1e-3 * max(means[0].abs().max().item(), 1) and after < 0.01 * before


def test_biases_of_all_quantizers_are_corrected_where_some_are_left_out(folded, batch):
    """Training fits biases to the means of the fully quantized network: with fewer quantizers they are the same."""
    network = calibrated(folded, batch)[1]
    before = mean_outputs(network, batch)
    fewer = quantized(folded)
    amax.load(fewer, calibrated(folded, batch)[0]["amax"])
    error = bias_correction.of_fewer(network, batch, lambda name: ".mlp." in name)
    bias_correction.apply(fewer, error)
    left_out = [quantizer for name, quantizer in amax.quantizers(fewer).items() if ".mlp." not in name]
    for quantizer in left_out:
        quantizer.disable()
    after, found = mean_outputs(fewer, batch), mean_outputs(network, batch)
    assert len(left_out) > 20 and any(any(values) for values in error.values())
    for name, means in before.items():
        assert torch.allclose(after[name], means, atol=1e-4), name
        assert torch.equal(found[name], means), "the network is left as it was"


def test_bias_correction_brings_logits_nearer(folded, batch):
    other = random_images(seed=9)
    with torch.no_grad():
        target = folded(other)
        losses = [divergence(calibrated(folded, batch, bias_correction=b)[1](other), target).item() for b in (0, 1)]
    assert losses[1] < losses[0]


def test_finding_the_correction_changes_nothing(folded, batch):
    _, network = calibrated(folded, batch)
    with torch.no_grad():
        before = network(batch)
        bias_correction.estimate(network, batch)
        assert torch.equal(network(batch), before)


def test_adjusting_gives_the_network_that_was_calibrated(folded, batch):
    row = {"equalize": True, "smoothing": 0.5, "bias_correction": True}
    found, network = calibrated(folded, batch, **row)
    again = quantized(calibrator.adjust(copy.deepcopy(folded), found))
    amax.load(again, found["amax"])
    with torch.no_grad():
        assert torch.equal(again(batch), network(batch))


# Images that are no use


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_no_numbers_are_refused(folded, value):
    with pytest.raises(UserError, match=r"activations are NaN or infinite, the first at stem.conv1.input_quantizer"):
        calibrated(folded, torch.full((1, 3, SIZE, SIZE), value))


@pytest.mark.parametrize("place", [0, 40, 69])
def test_one_image_that_is_no_number_is_refused_in_whatever_batch(folded, place):
    images = torch.rand(70, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    images[place, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=r"activations are NaN or infinite, the first at stem.conv1.input_quantizer"):
        calibrated(folded, images)


def test_blank_images_are_refused(folded):
    with pytest.raises(
        UserError, match=r"1 activations are constant, the first at stem.conv1.input_quantizer \(0.5 ever"
    ):
        calibrated(folded, torch.full((2, 3, SIZE, SIZE), 0.5))


def test_a_layer_that_gives_nothing_is_named(folded, batch):
    dead = copy.deepcopy(folded)
    dead.stem.conv2.weight.data.zero_()
    dead.stem.conv2.bias.data.zero_()
    with pytest.raises(UserError, match=r"constant, the first at stem.conv3.input_quantizer \(0 everywhere\)"):
        calibrated(dead, batch)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return Digits(tmp_path_factory.mktemp("digits"))


def test_fewer_images_than_asked_are_used_and_said(digits, caplog, monkeypatch):
    monkeypatch.setattr(calibration_images.log, "propagate", True)
    assert digits.calibrate("few.json", images=999)["images"] == 64
    assert "calibration asks for 999 images, the split has 64: all are used" in caplog.text


def test_no_images_are_refused(digits):
    with pytest.raises(UserError, match="calibration.images 0 with 64 images in .*calib.u8: at least 1 is needed"):
        digits.calibrate("none.json", images=0)


# Other programs' ranges and quantizers


def old_names(ranges, module):
    """Return tensors as pytorch-quantization names them: {module}._{x}_quantizer._amax."""
    made = {}
    for name, value in ranges.items():
        owner, _, quantizer = name.rpartition(".")
        made[f"{module(owner)}._{quantizer}._amax"] = torch.tensor(value)
    return made


NAMES = {
    "folded": lambda name: name,
    "timm": lambda name: name if name.endswith((".qk", ".av")) or ".add" in name else f"{name}.linear",
}


@pytest.mark.parametrize("style", NAMES)
def test_ranges_of_pytorch_quantization_are_imported(digits, style):
    own = digits.calibrate("own.json")["amax"]
    wanted = {name: 2 * value for name, value in own.items() if not name.endswith("weight_quantizer")}
    state = {**digits.network.state_dict(), **old_names(wanted, NAMES[style])}
    checkpoint.save(state, digits["old.pth"])
    found = digits.calibrate("imported.json", **{"import": digits["old.pth"]})["amax"]
    for name, value in own.items():
        kept = name.endswith("weight_quantizer") or (style == "timm" and name == "head.input_quantizer")
        assert found[name] == (value if kept else pytest.approx(2 * value)), name


def test_ranges_under_the_original_levits_names_are_imported(digits):
    names = {n.rpartition(".")[0]: o.rpartition(".")[0] for o, n in formats.original_names(digits.network).items()}
    original = names["stages.0.blocks.0.attn.qkv.linear"]
    assert original.startswith("blocks.")
    checkpoint.save({f"module.{original}._input_quantizer._amax": torch.tensor(7.0)}, digits["old.pth"])
    found = imported_ranges.ranges(digits["old.pth"], quantized(digits.folded()), digits.network)
    assert found == {"stages.0.blocks.0.attn.qkv.input_quantizer": 7.0}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"head.weight": torch.ones(2)}, r"has no ranges of this network's activations \(it has no \*_quantizer._amax"),
        ({"x._input_quantizer._amax": torch.tensor(1.0)}, r"activations \(it has x.input_quantizer"),
        (
            {"stem.conv1._input_quantizer._amax": torch.tensor(float("nan"))},
            "stem.conv1.input_quantizer is nan: it must",
        ),
    ],
    ids=["nothing", "another network", "not a number"],
)
def test_imports_that_are_no_use_are_refused(digits, state, said):
    checkpoint.save(state, digits["bad.pth"])
    with pytest.raises(UserError, match=said):
        digits.calibrate("bad.json", **{"import": digits["bad.pth"]})


def test_the_second_backend_says_where_it_comes_from(folded, batch):
    with pytest.raises(UserError, match="backend pytorch_quantization is not installed here .*NVIDIA's index"):
        calibrated(folded, batch, backend="pytorch_quantization")


class Descriptor:
    def __init__(self, num_bits, axis):
        self.num_bits, self.axis = num_bits, axis


class StandIn(torch.nn.Module):
    """What this project uses of pytorch-quantization 2.2.1's TensorQuantizer, which cannot be installed here."""

    def __init__(self, descriptor):
        super().__init__()
        assert descriptor.num_bits == 8
        self._disabled, self._if_quant, self._axis = False, True, descriptor.axis

    def disable_quant(self):
        self._if_quant = False

    def enable_quant(self):
        self._if_quant = True

    @property
    def amax(self):
        return self._amax

    @amax.setter
    def amax(self, value):
        assert (self._axis is None) == (value.ndim == 0)
        self.register_buffer("_amax", value.clone())

    def forward(self, values):
        scale = self._amax / 127 if self._if_quant else 1
        return torch.round(values / scale).clamp(-128, 127) * scale if self._if_quant else values


def test_layers_that_get_no_pairs_get_no_quantizers():
    parts = [torch.nn.Conv2d(3, 4, 3), torch.nn.MaxPool2d(2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    network = backends.add(torch.nn.Sequential(*parts, torch.nn.LayerNorm(4), torch.nn.Linear(4, 2)), {})
    assert sorted(amax.quantizers(network)) == [f"{n}.{x}_quantizer" for n in (0, 5) for x in ("input", "weight")]


def test_both_backends_place_the_same_quantizers(folded, batch, monkeypatch):
    package, parts = types.ModuleType("pytorch_quantization"), {}
    for name, content in {"nn": {"TensorQuantizer": StandIn}, "tensor_quant": {"QuantDescriptor": Descriptor}}.items():
        parts[name] = types.ModuleType(f"pytorch_quantization.{name}")
        vars(parts[name]).update(content)
        monkeypatch.setitem(sys.modules, f"pytorch_quantization.{name}", parts[name])
    monkeypatch.setitem(sys.modules, "pytorch_quantization", package)
    row = {"bias_correction": True, "equalize": True}
    (ours, own), (theirs, other) = (calibrated(folded, batch, **row, backend=b) for b in backends.BACKENDS)
    assert ours["amax"] == theirs["amax"]
    assert own.state_dict().keys() == other.state_dict().keys()
    with torch.no_grad():
        lost = (own(batch) - folded(batch)).abs().max()
        assert (own(batch) - other(batch)).abs().max() < 0.25 * lost
