"""The original LeViT from its description: state dicts with its names and shapes, and what they compute.

Nothing here comes from timm or from the workflow. A network is a stem of four convolutions of stride 2, then stages of
blocks; a block is attention and an MLP, each with a skip connection. Between stages an attention that subsamples its
queries by 2, and an MLP with a skip connection. BatchNorm follows every convolution and linear layer (`c`, `bn`), and
precedes the two classifiers (`bn`, `l`), whose logits are averaged.
"""

import itertools

import torch
from torch.nn import functional

EPSILON = 1e-5
BRANCH = 0.3  # of what is added to a skip connection, so that the sums of many blocks stay small
# embedding, heads and blocks of each stage, size of a key: table 1 of the paper (Graham et al. 2021, arXiv 2104.01136)
SPECS = {
    "LeViT-128S": {"widths": (128, 256, 384), "heads": (4, 6, 8), "blocks": (2, 3, 4), "key": 16},
    "LeViT-128": {"widths": (128, 256, 384), "heads": (4, 8, 12), "blocks": (4, 4, 4), "key": 16},
    "LeViT-192": {"widths": (192, 288, 384), "heads": (3, 5, 6), "blocks": (4, 4, 4), "key": 32},
    "LeViT-256": {"widths": (256, 384, 512), "heads": (4, 6, 8), "blocks": (4, 4, 4), "key": 32},
    "LeViT-384": {"widths": (384, 512, 768), "heads": (6, 9, 12), "blocks": (4, 4, 4), "key": 32},
    "LeViT-tiny": {"widths": (32, 48, 64), "heads": (2, 3, 4), "blocks": (1, 1, 1), "key": 16},
}


def parts(spec, size):
    """Yield (prefix, kind, facts) of every part in the order of the original's state dict."""
    first, side = spec["widths"][0], -(-size // 16)
    for number, (wide, narrow) in enumerate(
        zip((3, first // 8, first // 4, first // 2), (first // 8, first // 4, first // 2, first))
    ):
        yield f"patch_embed.{2 * number}", "conv", {"inputs": wide, "outputs": narrow}
    number, key = 0, spec["key"]
    for stage, (width, heads, blocks) in enumerate(zip(spec["widths"], spec["heads"], spec["blocks"])):
        if stage:
            before = spec["widths"][stage - 1]
            facts = {"inputs": before, "outputs": width, "heads": before // key, "key": key, "value": 4 * key}
            yield f"blocks.{number}", "subsample", {**facts, "side": side}
            yield f"blocks.{number + 1}", "mlp", {"width": width}
            number, side = number + 2, (side + 1) // 2
        for _ in range(blocks):
            facts = {"inputs": width, "outputs": width, "heads": heads, "key": key, "value": 2 * key}
            yield f"blocks.{number}", "attention", {**facts, "side": side}
            yield f"blocks.{number + 1}", "mlp", {"width": width}
            number += 2
    for head in ("head", "head_dist"):
        yield head, "head", {"width": spec["widths"][-1]}


class Maker:
    """A state dict with random weights that keep activations near 1."""

    def __init__(self, seed):
        self.state, self.rng = {}, torch.Generator().manual_seed(seed)

    def normal(self, name, *shape, scale=1.0):
        self.state[name] = torch.randn(shape, generator=self.rng) * scale

    def norm(self, name, width, share=1.0):
        self.state[f"{name}.weight"] = share * (0.5 + torch.rand(width, generator=self.rng))
        self.normal(f"{name}.bias", width, scale=0.2)
        self.normal(f"{name}.running_mean", width, scale=0.2)
        self.state[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=self.rng)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def linear(self, name, inputs, outputs, share=1.0):
        self.normal(f"{name}.c.weight", outputs, inputs, scale=inputs**-0.5)
        self.norm(f"{name}.bn", outputs, share)

    def conv(self, name, inputs, outputs):
        self.normal(f"{name}.c.weight", outputs, inputs, 3, 3, scale=(9 * inputs) ** -0.5)
        self.norm(f"{name}.bn", outputs)

    def biases(self, name, heads, side, stride):
        self.normal(f"{name}.attention_biases", heads, side * side, scale=0.5)
        self.state[f"{name}.attention_bias_idxs"] = indices(side, stride)

    def attention(self, block, inputs, outputs, heads, key, value, side):
        self.biases(f"{block}.m", heads, side, 1)
        self.linear(f"{block}.m.qkv", inputs, heads * (2 * key + value))
        self.linear(f"{block}.m.proj.1", heads * value, outputs, BRANCH)

    def subsample(self, block, inputs, outputs, heads, key, value, side):
        self.biases(block, heads, side, 2)
        self.linear(f"{block}.kv", inputs, heads * (key + value))
        self.linear(f"{block}.q.1", inputs, heads * key)
        self.linear(f"{block}.proj.1", heads * value, outputs)

    def mlp(self, block, width):
        self.linear(f"{block}.m.0", width, 2 * width)
        self.linear(f"{block}.m.2", 2 * width, width, BRANCH)

    def head(self, name, width, classes):
        self.norm(f"{name}.bn", width)
        self.normal(f"{name}.l.weight", classes, width, scale=width**-0.5)
        self.normal(f"{name}.l.bias", classes, scale=0.2)


def indices(side, stride):
    """Return [queries, keys]: the place in the table of biases, one for each pair of distances as they first occur."""
    found, places = [], list(itertools.product(range(side), repeat=2))
    table = {}
    for query in itertools.product(range(0, side, stride), repeat=2):
        distances = [(abs(query[0] - key[0]), abs(query[1] - key[1])) for key in places]
        found.append([table.setdefault(distance, len(table)) for distance in distances])
    return torch.tensor(found)


def state(name, classes=1000, size=224, seed=0):
    """Return a state dict as the original program saves it."""
    maker = Maker(seed)
    for prefix, kind, facts in parts(SPECS[name], size):
        more = {"classes": classes} if kind == "head" else {}
        getattr(maker, kind)(prefix, **facts, **more)
    return maker.state


class Original:
    """A LeViT's evaluation from a state dict with the original's names: images [B, 3, S, S] -> logits [B, classes]."""

    def __init__(self, state, name, size=224):
        self.state, self.parts = state, list(parts(SPECS[name], size))

    def __call__(self, images):
        x, scores = images, []
        for prefix, kind, facts in self.parts:
            if kind != "conv" and x.ndim == 4:
                x = x.flatten(2).transpose(1, 2)
            result = getattr(self, kind)(x, prefix, facts)
            if kind == "head":
                scores.append(result)
            else:
                x = result
        return sum(scores) / len(scores)

    def conv(self, x, prefix, facts):
        x = functional.conv2d(x, self.state[f"{prefix}.c.weight"], stride=2, padding=1)
        x = self.norm(x.movedim(1, -1), f"{prefix}.bn").movedim(-1, 1)
        return x if prefix.endswith(".6") else functional.hardswish(x)  # no activation behind the last of the four

    def norm(self, x, name):
        s = self.state
        scale = s[f"{name}.weight"] / torch.sqrt(s[f"{name}.running_var"] + EPSILON)
        return (x - s[f"{name}.running_mean"]) * scale + s[f"{name}.bias"]

    def linear(self, x, name):
        return self.norm(x @ self.state[f"{name}.c.weight"].T, f"{name}.bn")

    def mixed(self, q, k, v, name, facts):
        """Return the values weighted by softmax(q k^T / sqrt(key) + bias), heads joined: each [B, N, heads, *]."""
        bias = self.state[f"{name}.attention_biases"][:, self.state[f"{name}.attention_bias_idxs"]]
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / facts["key"] ** 0.5 + bias
        x = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2)
        return self.linear(functional.hardswish(x), f"{name}.proj.1")

    def attention(self, x, block, facts):
        heads = self.linear(x, f"{block}.m.qkv").unflatten(2, (facts["heads"], -1))
        q, k, v = heads.split([facts["key"], facts["key"], facts["value"]], dim=3)
        return x + self.mixed(q, k, v, f"{block}.m", facts)

    def subsample(self, x, block, facts):
        k, v = (
            self.linear(x, f"{block}.kv")
            .unflatten(2, (facts["heads"], -1))
            .split([facts["key"], facts["value"]], dim=3)
        )
        grid = x.unflatten(1, (facts["side"], facts["side"]))[:, ::2, ::2].flatten(1, 2)
        q = self.linear(grid, f"{block}.q.1").unflatten(2, (facts["heads"], -1))
        return self.mixed(q, k, v, block, facts)

    def mlp(self, x, block, facts):
        return x + self.linear(functional.hardswish(self.linear(x, f"{block}.m.0")), f"{block}.m.2")

    def head(self, x, name, facts):
        return self.norm(x.mean(1), f"{name}.bn") @ self.state[f"{name}.l.weight"].T + self.state[f"{name}.l.bias"]
