"""The deployed form of a network: everything that only training needs is folded into the weights.

In a LeViT, BatchNorm is folded into the adjacent convolution or linear layer, the attention scale into the query rows
of the weights, and the two heads into their average; 1x1 convolutions on maps become linear layers on tokens.
In any other network, BatchNorm is folded into the layer before it. All changes of arithmetic happen here, so that the
plain export, the quantized export and quantization-aware training share the same compute nodes and names.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from model import batchnorm, equivalence
from model.timm_modules import layers, levit, utils

SCALED = ("qkv", "q", "q.ln")  # layers of attention that the scale is folded into


class MatMul(nn.Module):
    """Product of two activations [..., m, k] x [..., k, n]: a module, so that both inputs can be quantized."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return the product [..., m, n]."""
        return a @ b


class ResidualAdd(nn.Module):
    """A skip connection: a module, so that the skipped input can be quantized."""

    def forward(self, skipped: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        """Return the sum of two tensors of one shape."""
        return skipped + branch


class Attention(nn.Module):
    """LeViT attention with folded scale and materialised bias: x [B, N, C] -> [B, M, C'], M < N if it subsamples.

    `qkv` computes queries, keys and values; subsampling attention has `kv` and a separate `q`.
    """

    def __init__(self, source):
        super().__init__()
        self.subsamples = isinstance(source, levit.AttentionDownsample)
        self.num_heads, self.key_dim, self.val_dim = source.num_heads, source.key_dim, source.val_dim
        if self.subsamples:
            self.kv, self.q = source.kv, source.q
            _scale_rows(self.q.ln, torch.full((self.q.ln.out_features,), source.scale))
        else:
            self.qkv = source.qkv
            per_head = torch.ones(self.num_heads, 2 * self.key_dim + self.val_dim)
            per_head[:, : self.key_dim] = source.scale
            _scale_rows(self.qkv, per_head.flatten())
        self.qk, self.av, self.proj = MatMul(), MatMul(), source.proj
        self.bias = nn.Parameter(source.attention_biases.detach()[:, source.attention_bias_idxs].contiguous())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, M, C'] of tokens [B, N, C]."""
        batch, tokens, _ = x.shape
        if self.subsamples:
            k, v = self.kv(x).view(batch, tokens, self.num_heads, -1).split([self.key_dim, self.val_dim], dim=3)
            q = self.q(x).view(batch, -1, self.num_heads, self.key_dim)
        else:
            sizes = [self.key_dim, self.key_dim, self.val_dim]
            q, k, v = self.qkv(x).view(batch, tokens, self.num_heads, -1).split(sizes, dim=3)
        scores = self.qk(q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1)) + self.bias
        x = self.av(scores.softmax(dim=-1), v.permute(0, 2, 1, 3))
        return self.proj(x.transpose(1, 2).reshape(batch, -1, self.num_heads * self.val_dim))


class Block(nn.Module):
    """Attention and MLP, each with a skip connection."""

    def __init__(self, source):
        super().__init__()
        self.attn, self.mlp = source.attn, source.mlp
        self.add1, self.add2 = ResidualAdd(), ResidualAdd()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return tokens [B, N, C] of tokens of the same shape."""
        x = self.add1(x, self.attn(x))
        return self.add2(x, self.mlp(x))


class Downsample(nn.Module):
    """Attention that subsamples the tokens, then an MLP with a skip connection."""

    def __init__(self, source):
        super().__init__()
        self.attn_downsample, self.mlp, self.add = source.attn_downsample, source.mlp, ResidualAdd()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, M, C'] of tokens [B, N, C], M < N."""
        x = self.attn_downsample(x)
        return self.add(x, self.mlp(x))


def _scale_rows(linear, factors):
    linear.weight.data.mul_(factors[:, None])
    linear.bias.data.mul_(factors)


def _average_heads(model):
    """Replace the two heads of a distilled LeViT by one that gives the mean of their logits."""
    if not isinstance(model, levit.LevitDistilled):
        return model
    heads = [model.head, model.head_dist]
    head = nn.Linear(heads[0].in_features, heads[0].out_features)
    head.weight.data = sum(h.weight.data for h in heads) / 2
    head.bias.data = sum(h.bias.data for h in heads) / 2
    plain = levit.Levit.__new__(levit.Levit)
    plain.__dict__ = model.__dict__
    plain.head = head
    del plain.head_dist
    return plain


# Replacements of modules of timm's LeViT; children are replaced before their parents.
REPLACEMENTS = {
    **dict.fromkeys((levit.ConvNorm, levit.LinearNorm, levit.NormLinear), lambda module: module.fuse()),
    **dict.fromkeys((levit.Attention, levit.AttentionDownsample), Attention),
    levit.LevitBlock: Block,
    levit.LevitDownsample: Downsample,
}


def _replace(module):
    for name, child in module.named_children():
        setattr(module, name, _replace(child))
    return REPLACEMENTS.get(type(module), lambda unchanged: unchanged)(module)


def _on_tokens(model):
    """Turn a LeViT with 1x1 convolutions on maps into the equal one with linear layers on tokens."""
    for module in model.modules():
        if getattr(module, "use_conv", False):
            module.use_conv = False
        if isinstance(module, levit.AttentionDownsample) and isinstance(module.q.down, nn.AvgPool2d):
            module.q.down = levit.Downsample(module.stride, module.resolution)
        for name, child in module.named_children():
            if isinstance(child, levit.ConvNorm) and child.linear.kernel_size == (1, 1):
                setattr(module, name, _linear_norm(child))
    return model


def _linear_norm(source):
    linear = levit.LinearNorm(source.linear.in_channels, source.linear.out_channels)
    state = {name: value[..., 0, 0] if value.ndim == 4 else value for name, value in source.state_dict().items()}
    linear.load_state_dict(state)
    return linear.eval()


def _of_any(model, images):
    """Fold a network other than LeViT; unfuse its attention into operators that every runtime has.

    timm merges branches that exist for training alone (RepViT, MobileOne) into one layer. Returns the network and the
    names of the layers whose outputs have changed.
    """
    for module in model.modules():
        if getattr(module, "fused_attn", False):
            module.fused_attn = False
    model = utils.reparameterize_model(model)
    moved = batchnorm.fold(model, images[:1])
    for module in model.modules():
        if type(module) is layers.Linear:  # equals torch's, which is what backends quantize
            module.__class__ = nn.Linear
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is None:  # bias correction needs one
            module.bias = nn.Parameter(module.weight.new_zeros(module.weight.shape[0]))
    return model, moved


def _folded(model, images):
    model = copy.deepcopy(model)
    if not isinstance(model, levit.Levit):
        return _of_any(model, images)
    model = _average_heads(_replace(_on_tokens(model)))
    scaled = [f"{name}.{part}" for name, m in model.named_modules() if isinstance(m, Attention) for part in SCALED]
    return model, ["head", "head_dist", *scaled]


@torch.no_grad()
def fold(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Return the deployed form of a network of zoo.py, in evaluation mode: float32 [B, 3, H, W] -> logits [B, classes].

    The model itself is not changed. images: float32 [N, 3, H, W] on which its logits and the folded network's are
    compared. Raises UserError if they differ, naming the first module that does.
    """
    source = copy.deepcopy(model).float().eval()
    equivalence.reference(source, images[:1])  # raises if the network cannot take them
    folded, moved = _folded(source, images)
    equivalence.check(source, folded.eval(), images, moved, lambda: _folded(source.double(), images.double())[0].eval())
    return folded
