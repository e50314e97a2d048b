"""A folded network is held to the unfolded one on images, before anything is made of it."""

import contextlib

import numpy as np
import torch

from core.command import log
from core.files import UserError
from data import cache, preprocess

IMAGES = 8  # that a folded network is compared on
MAX_ERROR = 1e-4  # of logits, relative to the largest
FAILURES = (RuntimeError, AssertionError, AttributeError, LookupError, TypeError, ValueError)  # of a network's own code


def images(path, row):
    """Return the first images of a preprocessed split as the network takes them: float32 [IMAGES, 3, size, size].

    row: of `models` (mean, std). Where the split has fewer, random ones stand in for the others, and it is said.
    """
    pixels = np.array(cache.read(path)[:IMAGES])
    wanted = IMAGES - len(pixels)
    if wanted:
        log.info("folding is proved on %d images and %d random ones: %s has no more", len(pixels), wanted, path)
        made = np.random.default_rng(0).integers(0, 256, (wanted, *pixels.shape[1:]), np.uint8)
        pixels = np.concatenate([pixels, made])
    return torch.from_numpy(preprocess.normalize(pixels, row["mean"], row["std"]))


@torch.no_grad()
def reference(model, images):
    """Return an unfolded network's logits of images; raise UserError where it cannot compute them."""
    try:
        logits = model(images)
    except FAILURES as error:
        size = images.shape[-1]
        raise UserError(f"the network cannot take images of size {size} ({_said(error)}): correct `size`") from None
    if not logits.isfinite().all():
        raise UserError(f"the network's own logits of {len(images)} images are not finite: its weights are of no use")
    return logits


@torch.no_grad()
def check(model, folded, images, moved, exact):
    """Raise UserError naming the first module that differs, where a folded network's logits are not the unfolded one's.

    images: float32 [N, 3, H, W]; moved: names of modules whose outputs folding changes by right; exact: function that
    makes the network one of float64 and gives its folded form: that tells a wrong folding from amplified rounding.
    """
    try:
        error = _apart(folded(images), reference(model, images))
    except FAILURES as failure:
        raise UserError(f"the folded network does not run ({_said(failure)}): take another network") from None
    if error <= MAX_ERROR:
        return log.info("folded: logits of %d images within %.1e of the unfolded network's", len(images), error)
    changes = f"changes the network's logits of {len(images)} images by {error:.1e} of the largest"
    where = _first(model, folded, images, moved)  # before the network is made one of float64
    if _is_rounding(model, exact, images, error):
        raise UserError(
            f"float32 rounding alone {changes} (at most {MAX_ERROR:.0e}), as its weights amplify it: are they trained, "
            "and are size, mean and std what they were trained with?"
        )
    raise UserError(
        f"folding BatchNorm {changes} (at most {MAX_ERROR:.0e}), first at {where}: take another network, this one "
        "cannot be deployed"
    )


def _is_rounding(model, exact, images, error):
    """Return whether folding in float64 is right, so that an error in float32 is one of rounding."""
    wide = images.double()
    with contextlib.suppress(*FAILURES):  # some networks compute in float32 alone
        return _apart(exact()(wide), model(wide)) < error / 1000
    return False


def _said(error):
    return " ".join(f"{type(error).__name__}: {error}".split())


def _first(model, folded, images, moved):
    """Return the name and type of the first module that both networks have and whose outputs differ."""
    expected, got = _outputs(model, images, moved), _outputs(folded, images, moved)
    for name, value in expected.items():
        if name in got and not _apart(got[name], value) <= MAX_ERROR:
            return f"{name} ({type(model.get_submodule(name)).__name__})"
    return "the output"


def _outputs(model, images, moved):
    """Return {name: output tensor} of a network's modules, in the order in which they end."""
    found, hooks = {}, []

    def keep(name):
        def hook(module, inputs, output):
            if isinstance(output, torch.Tensor):
                found.setdefault(name, output.clone())  # what comes next may change it in place

        return hook

    for name, module in model.named_modules():
        if name and name not in moved:
            hooks.append(module.register_forward_hook(keep(name)))
    model(images)
    for hook in hooks:
        hook.remove()
    return found


def _apart(got, expected):
    """Return the largest difference of two tensors as a share of the largest expected value."""
    if got.shape != expected.shape:
        return float("inf")
    return ((got - expected).abs().max() / expected.abs().max().clamp(min=1e-6)).item()
