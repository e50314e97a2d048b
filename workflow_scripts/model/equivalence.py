"""Check that a folded network computes the unfolded network's logits, before anything is built from it."""

import contextlib
import os
from collections.abc import Callable, Container

import numpy as np
import torch
from torch import nn

from core.command import log
from core.files import UserError
from data import cache, preprocess
from model.hooks import hooked

IMAGES = 8  # number of images on which the networks are compared
MAX_ERROR = 1e-4  # of logits, relative to the largest
FAILURES = (RuntimeError, AssertionError, AttributeError, LookupError, TypeError, ValueError)  # of a network's own code


def images(path: str | os.PathLike, row: dict) -> torch.Tensor:
    """Return the first images of a preprocessed split, normalized: float32 [IMAGES, 3, size, size].

    row: of `models` (mean, std). Random images complete a smaller split; the log says so.
    """
    pixels = np.array(cache.read(path)[:IMAGES])
    wanted = IMAGES - len(pixels)
    if wanted:
        log.info("folding is checked on %d images and %d random ones: %s has no more", len(pixels), wanted, path)
        random = np.random.default_rng(0).integers(0, 256, (wanted, *pixels.shape[1:]), np.uint8)
        pixels = np.concatenate([pixels, random])
    return torch.from_numpy(preprocess.normalize(pixels, row["mean"], row["std"]))


@torch.no_grad()
def reference(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return an unfolded network's logits; raise UserError if it cannot compute them or they are not finite."""
    try:
        logits = model(images)
    except FAILURES as error:
        size = images.shape[-1]
        raise UserError(f"the network cannot take images of size {size} ({_text(error)}): correct `size`") from None
    if not logits.isfinite().all():
        raise UserError(f"the network's own logits of {len(images)} images are not finite: its weights are unusable")
    return logits


@torch.no_grad()
def check(model: nn.Module, folded: nn.Module, images: torch.Tensor, moved: Container[str], exact: Callable) -> None:
    """Raise UserError naming the first module that differs if a folded network's logits are not the unfolded one's.

    images: float32 [N, 3, H, W]; moved: names of modules whose outputs folding changes by design; exact: converts the
    network to float64 and returns its folded form, which tells a wrong folding from amplified rounding.
    """
    try:
        error = _apart(folded(images), reference(model, images))
    except FAILURES as failure:
        raise UserError(f"the folded network does not run ({_text(failure)}): use another network") from None
    if error <= MAX_ERROR:
        log.info("folded: logits of %d images within %.1e of the unfolded network's", len(images), error)
        return
    largest = f"{error:.1e} of the largest (at most {MAX_ERROR:.0e})"
    changes = f"changes the network's logits of {len(images)} images by {largest}"
    where = _first(model, folded, images, moved)  # before the network becomes float64
    if _is_rounding(model, exact, images, error):
        doubts = "are they trained, and are size, mean and std what they were trained with?"
        raise UserError(f"float32 rounding alone {changes}, as its weights amplify it: {doubts}")
    raise UserError(f"folding BatchNorm {changes}, first at {where}: use another network, this one cannot be deployed")


def check_exported(
    what: str, model: torch.nn.Module, images: torch.Tensor, run: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Raise UserError if the logits of an exported network, by run(images), are not the model's, for 1 and 3 images.

    what: the exported network, for messages; images: float32 [N, 3, H, W] of at least three.
    """
    for part in (images[:1], images[:3]):
        error = _apart(run(part), reference(model.eval(), part))
        log.info("batch %d: logits within %.1e of PyTorch", len(part), error)
        if not error <= MAX_ERROR:
            raise UserError(f"the logits of {what} are off by {error:.1e} (at most {MAX_ERROR:.0e})")


def _is_rounding(model, exact, images, error):
    """Return whether folding is right in float64, so that the float32 error is rounding."""
    wide = images.double()
    with contextlib.suppress(*FAILURES):  # some networks run in float32 alone
        return _apart(exact()(wide), model(wide)) < error / 1000
    return False


def _text(error):
    return " ".join(f"{type(error).__name__}: {error}".split())


def _first(model, folded, images, moved):
    """Return the name and type of the first common module whose outputs differ."""
    expected, got = _outputs(model, images, moved), _outputs(folded, images, moved)
    for name, value in expected.items():
        if name in got and not _apart(got[name], value) <= MAX_ERROR:
            return f"{name} ({type(model.get_submodule(name)).__name__})"
    return "the output"


def _outputs(model, images, moved):
    """Return {name: output tensor} of a network's modules, in execution order."""
    outputs, modules = {}, {n: m for n, m in model.named_modules() if n and n not in moved}

    def record(name, inputs, output):
        if isinstance(output, torch.Tensor):
            outputs.setdefault(name, output.clone())  # a later operation may change it in place

    with hooked(modules, record):
        model(images)
    return outputs


def _apart(got, expected):
    """Return the largest difference of two tensors as a share of the largest expected value."""
    if got.shape != expected.shape:
        return float("inf")
    return ((got - expected).abs().max() / expected.abs().max().clamp(min=1e-6)).item()
