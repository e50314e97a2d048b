"""Bias correction: the mean error that quantization makes in each output channel goes into that layer's bias.

Layers are corrected in the order in which they compute, each on inputs that are quantized and corrected already, as
Nagel et al. 2019 (arXiv 1906.04721) do empirically. One pass is enough: a layer's output is corrected as it is made,
before the next layer reads it. All images therefore go through the network at once.
"""

import contextlib

import torch

from quantization import amax

IMAGES = 128  # they are in memory at once; a mean over them and over the places of an image is steady enough


@torch.no_grad()
def find(model, images):
    """Return {module: what its bias lacks, per output channel} of a quantized network with ranges, left as it was.

    images: float32 [N, 3, H, W], of which the first IMAGES are used.
    """
    images, layers = images[:IMAGES], _layers(model)
    wanted, found = {}, {}

    def mean(name, output):
        return _mean(output, _channels(layers[name], output))

    with amax.unquantized(model), _hooked(layers, lambda name, output: wanted.update({name: mean(name, output)})):
        model(images)

    def correct(name, output):
        found[name] = wanted[name] - mean(name, output)
        shape = [1] * output.ndim
        shape[_channels(layers[name], output)] = -1
        return output + found[name].view(shape)

    with _hooked(layers, correct):
        model(images)
    return {name: error.tolist() for name, error in found.items()}


@torch.no_grad()
def apply(model, bias):
    """Add {module: per output channel} to the biases of a folded network, in place, and return it."""
    for name, error in bias.items():
        module = model.get_submodule(name)
        module.bias.add_(torch.tensor(error, device=module.bias.device))
    return model


def _layers(model):
    """Return {name: module} of what has a quantized weight."""
    modules = (amax.module_of(name) for name in amax.named(model) if name.endswith(amax.WEIGHT))
    return {name: model.get_submodule(name) for name in modules}


def _channels(layer, output):
    """Return the dimension of a layer's output channels."""
    return 1 if isinstance(layer, torch.nn.Conv2d) else output.ndim - 1


def _mean(output, channels):
    return output.mean(dim=[dim for dim in range(output.ndim) if dim != channels])


@contextlib.contextmanager
def _hooked(layers, function):
    """Call function(name, output) whenever a layer has computed; what it returns, if anything, replaces the output."""
    hooks = [m.register_forward_hook(lambda _, __, o, name=name: function(name, o)) for name, m in layers.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
