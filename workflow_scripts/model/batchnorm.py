"""Fold BatchNorm into the layer before it, in any network; one observed forward pass shows which layer that is."""

import collections

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import fusion
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

LAYERS = {nn.Conv2d: fusion.fuse_conv_bn_weights, nn.Linear: fusion.fuse_linear_bn_weights}
CHANNELS = {nn.Conv2d: 1, nn.Linear: -1}  # which dimension of an output a layer's channels are
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # tolerance of a BatchNorm's output against its formula


@torch.no_grad()
def fold(model: nn.Module, images: torch.Tensor) -> list[str]:
    """Fold each BatchNorm that alone reads a convolution's or linear layer's output into that layer, in place.

    model: in evaluation mode; images: float32 [N, 3, H, W] for the observed pass. The activation of timm's BatchNorms
    stays in their place. Modules that run more than once in a pass, have hooks, share parameters or have other readers
    are not changed. Returns the names of the layers that a BatchNorm was folded into.
    """
    pairs = Observation(model).pairs(images)
    for norm, layer in pairs.items():
        layer.weight, layer.bias = LAYERS[type(layer)](layer.weight, layer.bias, *_statistics(norm))
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out a module's second name
            if child in pairs:
                setattr(parent, name, _rest(child))
    layers = set(pairs.values())
    return [name for name, module in model.named_modules(remove_duplicate=False) if module in layers]


class Observation(TorchDispatchMode):
    """A forward pass that records every operation that reads a layer's output or a parameter.

    Storages identify tensors, so that a view counts as its base; an operation counts as read by the running module.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.running, self.paused = model, [], False
        self.runs, self.readers = collections.Counter(), collections.defaultdict(list)  # by module, by storage
        self.written, self.read = {}, {}  # {layer: output}, {norm: input}
        self.plain = set()  # norms that compute the formula of BatchNorm and nothing else
        self.candidates = [module for module in model.modules() if _is_plain(module)]
        tensors = (t for m in self.candidates for t in (*m._parameters.values(), *m._buffers.values()))
        self.watched = {_storage(tensor): tensor for tensor in tensors if tensor is not None}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not self.paused:
            shared = set() if function._schema.is_mutable else set(map(_storage, _tensors(result)))
            for key in (set(map(_storage, _tensors((args, kwargs)))) - shared) & self.watched.keys():
                self.readers[key].append(self.running[-1] if self.running else None)
        return result

    def pairs(self, images: torch.Tensor) -> dict[nn.Module, nn.Module]:
        """Run the network and return {BatchNorm: the layer whose output it alone reads}."""
        hooks = [m.register_forward_pre_hook(lambda module, _: self.running.append(module)) for m in self.candidates]
        hooks += [module.register_forward_hook(self._leave) for module in self.candidates]
        try:
            with self:
                outputs = self.model(images)
        finally:
            for hook in hooks:
                hook.remove()
        for tensor in _tensors(outputs):
            self.readers[_storage(tensor)].append(None)
        layer_of = {_storage(output): layer for layer, output in self.written.items()}
        before = {norm: layer_of.get(_storage(value)) for norm, value in self.read.items()}
        return {norm: layer for norm, layer in before.items() if layer is not None and self._fits(norm, layer)}

    def _leave(self, module, inputs, output):
        self.running.pop()
        self.runs[module] += 1
        self.paused = True
        if isinstance(module, _BatchNorm):
            self.read[module] = inputs[0]
            if _is_formula(module, inputs[0], output):
                self.plain.add(module)
        else:
            self.written[module] = output
            self.watched[_storage(output)] = output  # a live storage keeps its address
        self.paused = False

    def _fits(self, norm, layer):
        output, value = self.written[layer], self.read[norm]
        alone = self.runs[norm] == self.runs[layer] == 1 and set(self.readers[_storage(output)]) == {norm}
        own = all(set(self.readers[_storage(p)]) <= {m} for m in (norm, layer) for p in m.parameters(recurse=False))
        return norm in self.plain and alone and own and _same_channels(output, CHANNELS[type(layer)], value)


def _is_plain(module):
    """Return whether a module is a BatchNorm or layer with parameters of its own and without hooks."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    if hooked or not (isinstance(module, _BatchNorm) or type(module) in LAYERS):
        return False
    return "weight" in module._parameters and "bias" in module._parameters


def _is_formula(norm, value, output):
    """Return whether a BatchNorm's output is its formula followed by the activation that would replace it."""
    mean = norm.running_mean
    if norm.training or mean is None or not isinstance(output, torch.Tensor) or value.dtype != mean.dtype:
        return False
    _, variance, eps, weight, bias = _statistics(norm)
    expected = _rest(norm)(F.batch_norm(value, mean, variance, weight, bias, False, 0.0, eps))
    return expected.shape == output.shape and torch.allclose(expected, output, equal_nan=True, **CLOSE)


def _statistics(norm):
    mean, variance = norm.running_mean, norm.running_var
    weight = torch.ones_like(mean) if norm.weight is None else norm.weight
    return mean, variance, norm.eps, weight, torch.zeros_like(mean) if norm.bias is None else norm.bias


def _same_channels(output, dimension, value):
    """Return whether dimension 1 of `value` is the given dimension of `output`, of whose storage it is a view."""
    channels = torch.arange(output.shape[dimension], dtype=torch.int32)
    if value.ndim < 2 or value.shape[1] != len(channels) or value.dtype != output.dtype:
        return False
    places = torch.full((output.untyped_storage().nbytes() // output.element_size(),), -1, dtype=torch.int32)
    sides = ((output, dimension), (value, 1))
    views = [places.as_strided(t.shape, t.stride(), t.storage_offset()).movedim(d, -1) for t, d in sides]
    views[0].copy_(channels.expand_as(views[0]))
    return torch.equal(views[1], channels.expand_as(views[1]))


def _tensors(tree):
    return [leaf for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _storage(tensor):
    return tensor.untyped_storage()._cdata


def _rest(norm):
    """Return what replaces a folded BatchNorm: the activation of timm's, or the identity."""
    more = [part for part in norm.children() if not isinstance(part, nn.Identity)]
    return nn.Sequential(*more) if more else nn.Identity()
