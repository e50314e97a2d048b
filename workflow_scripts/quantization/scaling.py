"""Scalings of channels that preserve the network's function and make its activations easier to quantize.

Two kinds fold into weights without a node. Queries and keys: a channel of the queries is multiplied by s and that of
the keys divided by s, since only their products matter (cross-layer equalization, Nagel et al. 2019, arXiv 1906.04721).
The residual stream of a stage: linear layers alone read it and add to it, so its channel c is divided by s in all
writers and multiplied by s in all readers (SmoothQuant's s, Xiao et al. 2022, arXiv 2211.10438). Outputs of Hardswish
(inputs of proj, ln2 and of the stem's convolutions) are not scaled: Hardswish is not homogeneous, and only a Mul node
could undo the scale.

All factors are powers of two, so float32 results are the same bit for bit. A scaling is {module: {"rows": factors of
its outputs, "columns": factors of its inputs}}.
"""

from collections.abc import Iterator

import torch

from model import deploy
from quantization.histograms import Histogram

LEAST = 1e-4  # of the largest channel: smaller channels are scaled as if they were that large


def find(model: torch.nn.Module, histograms: dict[str, Histogram], recipe: dict) -> dict[str, dict]:
    """Return the scaling of a recipe's `equalize` and `smoothing` (alpha); histograms: of the unscaled network."""
    scaling = _queries_and_keys(model, histograms) if recipe.get("equalize") else {}
    if recipe.get("smoothing"):
        for writers, readers in streams(model):
            _add_stream(scaling, model, histograms, writers, readers, recipe["smoothing"])
    return scaling


@torch.no_grad()
def apply(model: torch.nn.Module, scaling: dict[str, dict]) -> torch.nn.Module:
    """Scale the weights and biases of a folded network, in place, and return it."""
    for name, factors in scaling.items():
        module = model.get_submodule(name)
        if "rows" in factors:
            rows = torch.tensor(factors["rows"], device=module.weight.device)
            module.weight.mul_(rows.view(-1, *[1] * (module.weight.ndim - 1)))
            module.bias.mul_(rows)
        if "columns" in factors:
            columns = torch.tensor(factors["columns"], device=module.weight.device)
            module.weight.mul_(columns.view(1, -1, *[1] * (module.weight.ndim - 2)))
    return model


def streams(model: torch.nn.Module) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (modules that write, modules that read) each stage's residual stream of a LeViT, by name."""
    if not any(isinstance(module, deploy.Block) for module in model.modules()):
        return
    last = [name for name, module in model.stem.named_modules() if isinstance(module, torch.nn.Conv2d)][-1]
    writers, readers = [f"stem.{last}"], []
    for number, stage in enumerate(model.stages):
        parts = [f"stages.{number}.blocks.{index}" for index in range(len(stage.blocks))]
        if isinstance(stage.downsample, deploy.Downsample):
            down = f"stages.{number}.downsample"
            yield writers, [*readers, f"{down}.attn_downsample.kv", f"{down}.attn_downsample.q.ln"]
            writers, readers = [f"{down}.attn_downsample.proj.ln", f"{down}.mlp.ln2"], [f"{down}.mlp.ln1"]
        writers += [f"{part}.{layer}" for part in parts for layer in ("attn.proj.ln", "mlp.ln2")]
        readers += [f"{part}.{layer}" for part in parts for layer in ("attn.qkv", "mlp.ln1")]
    yield writers, [*readers, "head"]


def _powers(values):
    return torch.exp2(torch.round(torch.log2(values)))


def _add_stream(scaling, model, histograms, writers, readers, alpha):
    activation = torch.stack([histograms[f"{name}.input_quantizer"].channels for name in readers]).amax(dim=0)
    weight = torch.stack([model.get_submodule(name).weight.abs().amax(dim=0) for name in readers]).amax(dim=0)
    activation, weight = (values.clamp(min=LEAST * values.max()) for values in (activation, weight))
    factors = activation**alpha / weight ** (1 - alpha)
    factors = _powers(factors / factors.log().mean().exp())
    for name in writers:
        scaling.setdefault(name, {})["rows"] = (1 / factors).tolist()
    for name in readers:
        scaling.setdefault(name, {})["columns"] = factors.tolist()


def _queries_and_keys(model, histograms):
    scaling = {}
    for name, module in model.named_modules():
        if isinstance(module, deploy.Attention):
            channels = [histograms[f"{name}.qk.{side}_quantizer"].channels for side in "ab"]  # each [heads, key_dim]
            queries, keys = (values.clamp(min=LEAST * values.max()) for values in channels)
            factors = _powers((keys / queries).sqrt())
            ones = torch.ones(module.num_heads, module.val_dim)
            if module.subsamples:
                rows = {"q.ln": [factors], "kv": [1 / factors, ones]}
            else:
                rows = {"qkv": [factors, 1 / factors, ones]}
            scaling.update({f"{name}.{k}": {"rows": torch.cat(v, dim=1).flatten().tolist()} for k, v in rows.items()})
    return scaling
