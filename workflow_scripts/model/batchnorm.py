"""BatchNorm folded into the layer before it, in any network: which layer that is, one forward pass shows."""

import collections

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fusion

LAYERS = {nn.Conv2d: fusion.fuse_conv_bn_weights, nn.Linear: fusion.fuse_linear_bn_weights}


@torch.no_grad()
def fold(model, size):
    """Fold every BatchNorm that reads the output of a convolution or linear layer into it, in place; return the model.

    model: in evaluation mode, of images size x size. What timm's BatchNorms do besides (an activation) stays in their
    place. Whatever reads something else, or is computed more than once in a pass, stays as it is.
    """
    pairs = _pairs(model, size)
    for norm, layer in pairs.items():
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        layer.weight, layer.bias = LAYERS[type(layer)](layer.weight, layer.bias, *statistics)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in pairs:
                setattr(parent, name, _rest(child))
    return model


def _pairs(model, size):
    """Return {BatchNorm: the layer whose output it reads, as its only reader among modules}."""
    written, runs, readers = {}, collections.Counter(), collections.defaultdict(list)  # by id of a tensor, of a module

    def watch(module, inputs, output):
        runs[module] += 1
        if inputs and id(inputs[0]) in written:
            readers[id(inputs[0])].append(module)
        if type(module) in LAYERS:
            written[id(output)] = (module, output)  # a tensor that lives keeps its id

    leaves = [
        module for module in model.modules() if isinstance(module, (_BatchNorm, *LAYERS)) or not any(module.children())
    ]
    hooks = [module.register_forward_hook(watch) for module in leaves]
    model(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    alone = {layer: readers[key] for key, (layer, _) in written.items() if runs[layer] == 1 and len(readers[key]) == 1}
    return {seen[0]: layer for layer, seen in alone.items() if isinstance(seen[0], _BatchNorm) and runs[seen[0]] == 1}


def _rest(norm):
    """Return what a BatchNorm does besides: the activation of timm's, or nothing."""
    more = [part for part in norm.children() if not isinstance(part, nn.Identity)]
    return nn.Sequential(*more) if more else nn.Identity()
