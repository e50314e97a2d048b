"""Bias correction: add the mean error that quantization makes in each output channel to the bias of its layer.

Layers are corrected in the order in which they compute, each on inputs that are already quantized and corrected: the
empirical variant of Nagel et al. 2019 (arXiv 1906.04721). One pass is enough, because a layer's output is corrected
before the next layer reads it. All images therefore go through the network at once.
"""

from collections.abc import Callable

import torch

from model.hooks import hooked
from quantization import amax
from quantization.calibration_images import Images

IMAGES = 128  # in memory together; means over them and over the positions of an image are stable enough


@torch.no_grad()
def estimate(model: torch.nn.Module, images: Images) -> dict[str, list[float]]:
    """Return {module: correction of its bias, per output channel} of a calibrated network, which is not modified.

    images: float32 [N, 3, H, W], of which the first IMAGES are used.
    """
    with amax.unquantized(model):
        means = _means(model, images[:IMAGES])
    return _errors(model, images[:IMAGES], means)


@torch.no_grad()
def of_fewer(model: torch.nn.Module, images: Images, has: Callable[[str], bool]) -> dict[str, list[float]]:
    """Return the correction, as `estimate` does, of a network trained with all its quantizers that has only some.

    Training moved the mean errors of all quantizers into the biases, those of the quantizers that are left out too.
    has: function (quantizer) -> whether the network has it.
    """
    means = _means(model, images[:IMAGES])
    with amax.unquantized(model, lambda name: not has(name)):
        return _errors(model, images[:IMAGES], means)


@torch.no_grad()
def apply(model: torch.nn.Module, bias: dict[str, list[float]]) -> torch.nn.Module:
    """Add {module: per output channel} to the biases of a folded network, in place, and return it."""
    for name, error in bias.items():
        module = model.get_submodule(name)
        module.bias.add_(torch.tensor(error, device=module.bias.device))
    return model


def _means(model, images):
    """Return {layer: mean output of each channel}."""
    layers, means = _layers(model), {}

    def observe(name, inputs, output):
        means[name] = _mean(layers[name], output)

    with hooked(layers, observe):
        model(images)
    return means


def _errors(model, images, means):
    """Return {layer: what its mean outputs lack}, each layer's on inputs that are corrected already."""
    layers, errors = _layers(model), {}

    def correct(name, inputs, output):
        errors[name] = means[name] - _mean(layers[name], output)
        shape = [1] * output.ndim
        shape[_channels(layers[name], output)] = -1
        return output + errors[name].view(shape)

    with hooked(layers, correct):
        model(images)
    return {name: error.tolist() for name, error in errors.items()}


def _mean(layer, output):
    channels = _channels(layer, output)
    return output.mean(dim=[dim for dim in range(output.ndim) if dim != channels])


def _layers(model):
    """Return {name: module} of the modules with a quantized weight."""
    modules = (amax.module_of(name) for name in amax.quantizers(model) if name.endswith(amax.WEIGHT))
    return {name: model.get_submodule(name) for name in modules}


def _channels(layer, output):
    """Return the dimension of a layer's output channels."""
    return 1 if isinstance(layer, torch.nn.Conv2d) else output.ndim - 1
