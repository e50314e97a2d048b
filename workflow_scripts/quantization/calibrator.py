"""From a calibration recipe to a calibration, {amax, scaling, bias}, and from that to the network it speaks of.

A recipe is the precision's `calibration` row, or one of its candidates: `method` and `percentile` of activations,
`weights` (max or mse), `equalize`, `smoothing`, `bias_correction`, `backend`.
"""

import copy

import quantization
from core.files import UserError, canonical
from quantization import amax, bias_correction, histograms, methods, scaling


class Calibrator:
    """A folded network and its calibration images; statistics are collected once for each scaling of the network."""

    def __init__(self, model, images, progress=lambda count: None):
        """Collect nothing yet. images: float32 [N, 3, H, W] by slices; progress: called with each batch's size."""
        self.model, self.images, self.progress = model, images, progress
        self._seen = {}

    def calibrate(self, recipe, imported=None):
        """Return (calibration, quantized network with its ranges); raise UserError for images that are no use.

        imported: function of a quantized network that gives ranges {quantizer: amax} over those that are found here.
        """
        scale = scaling.find(self.model, self.seen({}, recipe), recipe) if is_scaled(recipe) else {}
        seen = self.seen(scale, recipe)
        network = self._quantized(scale, recipe)
        found = {"amax": ranges(network, seen, recipe), "scaling": scale, "bias": {}}
        found["amax"].update(imported(network) if imported else {})
        amax.load(network, found["amax"])
        if recipe.get("bias_correction"):
            found["bias"] = bias_correction.find(network, self.images)
            bias_correction.apply(network, found["bias"])
        return found, network

    def seen(self, scale, recipe):
        """Return the statistics of the network under a scaling."""
        key = canonical(scale)
        if key not in self._seen:
            self._seen[key] = histograms.collect(self._quantized(scale, recipe), self.images, self.progress)
        return self._seen[key]

    def _quantized(self, scale, recipe):
        network = scaling.apply(copy.deepcopy(self.model), scale)
        return quantization.add(network, backend(recipe))


def is_scaled(recipe):
    """Return whether a recipe scales the network, which takes a second pass over the images."""
    return bool(recipe.get("equalize") or recipe.get("smoothing"))


def ranges(model, seen, recipe):
    """Return {quantizer: amax, or list per output channel} of a network by a recipe; raise UserError."""
    if recipe["method"] not in methods.METHODS:
        raise UserError(
            f"calibration.method {recipe['method']!r} is not known; there are: {', '.join(methods.METHODS)}"
        )
    found = {name: methods.METHODS[recipe["method"]](histogram, recipe) for name, histogram in seen.items()}
    for name in amax.named(model):
        if name.endswith(amax.WEIGHT):
            weight = model.get_submodule(amax.module_of(name)).weight.detach()
            found[name] = methods.WEIGHTS[recipe.get("weights", "max")](weight).tolist()
    return dict(sorted(found.items()))


def adjust(model, calibration, quantized=lambda name: True):
    """Give a folded network the scaling and the corrected biases that a calibration was made with, in place.

    quantized: says of a module's name whether its quantizers are there; a layer without makes no error to correct.
    """
    scaling.apply(model, calibration.get("scaling", {}))
    bias = calibration.get("bias", {})
    return bias_correction.apply(model, {name: error for name, error in bias.items() if quantized(name)})


def backend(recipe):
    """Return the name of the backend whose quantizers a recipe wants."""
    return recipe.get("backend", "modelopt")


def format_recipe(recipe):
    """Return a recipe in words, for logs: what it sets besides its method."""
    more = [f"{key} {value}" if value is not True else key for key, value in sorted(recipe.items()) if value]
    return ", ".join(
        [recipe["method"], *(text for text in more if not text.startswith(("method", "images", "candidates")))]
    )
