"""From a calibration recipe to a calibration, {amax, scaling, bias}, and from that to the calibrated network.

A calibration recipe is the precision's `calibration` row, or one of its candidates: `method` and `percentile` for
activations, `weights` (max or mse), `equalize`, `smoothing`, `bias_correction`, `backend`.
"""

import copy
from collections.abc import Callable

import torch

from core.files import UserError, canonical
from quantization import amax, backends, bias_correction, histograms, methods, scaling
from quantization.calibration_images import Images


class Calibrator:
    """A folded network and its calibration images; histograms are collected once for each scaling of the network."""

    def __init__(
        self, model: torch.nn.Module, images: Images, progress: Callable = lambda count: None, counted: bool = True
    ):
        """Collect nothing yet.

        images: float32 [N, 3, H, W] by slices; progress: called with each batch's size; counted: False where no recipe
        `needs_counts`.
        """
        self.model, self.images, self.progress, self.counted = model, images, progress, counted
        self._histograms = {}

    def calibrate(self, recipe: dict, imported: Callable | None = None) -> tuple[dict, torch.nn.Module]:
        """Return (calibration, calibrated network); raise UserError for images that cannot calibrate it.

        imported: function (quantized network) -> {quantizer: amax} of ranges that replace the calibrated ones.
        """
        scale = scaling.find(self.model, self.histograms({}, recipe), recipe) if is_scaled(recipe) else {}
        network = self._quantized(scale, recipe)
        calibration = {"amax": ranges(network, self.histograms(scale, recipe), recipe), "scaling": scale, "bias": {}}
        calibration["amax"].update(imported(network) if imported else {})
        amax.load(network, calibration["amax"])
        if recipe.get("bias_correction"):
            calibration["bias"] = bias_correction.estimate(network, self.images)
            bias_correction.apply(network, calibration["bias"])
        return calibration, network

    def histograms(self, scale: dict, recipe: dict) -> dict[str, histograms.Histogram]:
        """Return {quantizer: Histogram} of the network under a scaling."""
        key = canonical(scale)
        if key not in self._histograms:
            network = self._quantized(scale, recipe)
            self._histograms[key] = histograms.collect(network, self.images, self.progress, self.counted)
        return self._histograms[key]

    def _quantized(self, scale, recipe):
        return backends.add(scaling.apply(copy.deepcopy(self.model), scale), recipe)


def is_scaled(recipe: dict) -> bool:
    """Return whether a calibration recipe scales the network, which takes a second pass over the images."""
    return bool(recipe.get("equalize") or recipe.get("smoothing"))


def needs_counts(recipe: dict) -> bool:
    """Return whether a calibration recipe takes more than the bounds of activations."""
    return recipe["method"] != "max" or is_scaled(recipe)


def ranges(model: torch.nn.Module, collected: dict[str, histograms.Histogram], recipe: dict) -> dict:
    """Return {quantizer: amax, or list per channel} of a quantized network; raise UserError for an unknown method."""
    method = methods.METHODS.get(recipe["method"])
    if method is None:
        known = ", ".join(methods.METHODS)
        raise UserError(f"calibration.method {recipe['method']!r} is not known; there are: {known}")
    chosen = {name: method(histogram, recipe) for name, histogram in collected.items()}
    for name in amax.quantizers(model):
        if name.endswith(amax.WEIGHT):
            weight = model.get_submodule(amax.module_of(name)).weight.detach()
            chosen[name] = methods.WEIGHTS[recipe.get("weights", "max")](weight).tolist()
    return dict(sorted(chosen.items()))


def adjust(model: torch.nn.Module, calibration: dict, quantized: Callable = lambda name: True) -> torch.nn.Module:
    """Apply the scaling and the bias correction of a calibration to a folded network, in place, and return it.

    quantized: function (module name) -> whether it is quantized; a layer that is not makes no error to correct.
    """
    scaling.apply(model, calibration.get("scaling", {}))
    bias = calibration.get("bias", {})
    return bias_correction.apply(model, {name: error for name, error in bias.items() if quantized(name)})


def format_recipe(recipe: dict) -> str:
    """Return a calibration recipe for logs: its method, then the options that it sets."""
    options = {k: v for k, v in sorted(recipe.items()) if v and k not in ("method", "images", "candidates")}
    return ", ".join([recipe["method"], *(k if v is True else f"{k} {v}" for k, v in options.items())])
