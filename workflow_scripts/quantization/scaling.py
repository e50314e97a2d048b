"""Scalings of channels that leave the network's function as it is and its activations easier to quantize.

Two kinds fold into weights without a node. Queries and keys: a key channel of the one times s, of the other divided by
s, since only their products count (cross-layer equalisation, Nagel et al. 2019, arXiv 1906.04721). The residual stream
of a stage: it is only added to and read by linear layers, so channel c divided by s in all that write and multiplied by
s in all that read changes nothing (SmoothQuant's s, Xiao et al. 2022, arXiv 2211.10438). What Hardswish gives (inputs
of proj, ln2 and of the stem's convolutions) is left: it is not homogeneous, and a Mul node would have to undo a scale.

All factors are powers of two, so float32 results stay the same bit for bit. A scaling is {module: {"rows": factors of
its outputs, "columns": factors of its inputs}}.
"""

import torch

from model import deploy

LEAST = 1e-4  # of the largest channel: what is smaller is scaled like that, and not blown up


def find(model, seen, recipe):
    """Return the scaling that a recipe asks for: `equalize` (queries and keys), `smoothing` (streams, alpha).

    seen: {quantizer: Histogram} of the unscaled folded network.
    """
    found = {}
    if recipe.get("equalize"):
        found.update(_queries_and_keys(model, seen))
    if recipe.get("smoothing"):
        for writers, readers in streams(model):
            _add_stream(found, model, seen, writers, readers, recipe["smoothing"])
    return found


@torch.no_grad()
def apply(model, scaling):
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


def streams(model):
    """Yield (names of modules that write, names of modules that read) each stage's residual stream, of a LeViT."""
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


def _add_stream(found, model, seen, writers, readers, alpha):
    activation = torch.stack([seen[f"{name}.input_quantizer"].channels for name in readers]).amax(dim=0)
    weight = torch.stack([model.get_submodule(name).weight.abs().amax(dim=0) for name in readers]).amax(dim=0)
    activation, weight = (values.clamp(min=LEAST * values.max()) for values in (activation, weight))
    factors = activation**alpha / weight ** (1 - alpha)
    factors = _powers(factors / factors.log().mean().exp())
    for name in writers:
        found.setdefault(name, {})["rows"] = (1 / factors).tolist()
    for name in readers:
        found.setdefault(name, {})["columns"] = factors.tolist()


def _queries_and_keys(model, seen):
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, deploy.Attention):
            channels = [seen[f"{name}.qk.{side}_quantizer"].channels for side in "ab"]  # each [heads, key_dim]
            queries, keys = (values.clamp(min=LEAST * values.max()) for values in channels)
            factors = _powers((keys / queries).sqrt())
            ones = torch.ones(module.num_heads, module.val_dim)
            if module.subsamples:
                rows = {"q.ln": [factors], "kv": [1 / factors, ones]}
            else:
                rows = {"qkv": [factors, 1 / factors, ones]}
            found.update({f"{name}.{k}": {"rows": torch.cat(v, dim=1).flatten().tolist()} for k, v in rows.items()})
    return found
