"""LeViT's attention as one operator of torch, `levit::attention`, in place of a program's operators.

On the processor the operator computes what it replaces; on an NVIDIA GPU it is one kernel in Triton
(_attention_kernel.py). Archives and engines of torch.export hold the operator by name.
"""

from __future__ import annotations

import functools
import itertools
import logging
from typing import Any

from core.files import UserError
from runtimes import _program, import_library

log = logging.getLogger("levit")
NAME = "levit::attention"
SCHEMA = "(Tensor tokens, Tensor? own_queries, Tensor bias, int key_dim, int val_dim) -> Tensor"
REMEDY = "install triton, or leave `fused_attention` out of the target's row"
TOLERANCE = 1e-5  # of the logits, relative to the largest
HEADS_FIRST, TRANSPOSED = [0, 2, 1, 3], [0, 2, 3, 1]
PARTS = ("split_with_sizes", ("view", "tokens", "of_heads"), "sizes", 3)


def _pattern(queries, keys, values):
    """Return attention's operators from the last one back; a string captures what is there."""
    scores = ("matmul", ("permute", queries, HEADS_FIRST), ("permute", keys, TRANSPOSED))
    shares = ("softmax", ("add", scores, "bias"), -1)
    weighted = ("matmul", shares, ("permute", values, HEADS_FIRST))
    return ("hardswish", ("view", ("transpose", weighted, 1, 2), "of_tokens"))


QUERIES_OF_TOKENS = _pattern(*(("getitem", PARTS, number) for number in range(3)))
OWN_QUERIES = _pattern(("view", "own_queries", "of_queries"), ("getitem", PARTS, 0), ("getitem", PARTS, 1))


@functools.lru_cache(maxsize=None)
def register() -> Any:
    """Define the operator in torch, once in a process; return it."""
    torch = _program.library()
    defined = torch.library.custom_op(NAME, reference, mutates_args=(), device_types="cpu", schema=SCHEMA)
    defined.register_kernel("cuda", _on_gpu)
    defined.register_fake(_shape)
    return torch.ops.levit.attention.default


def reference(tokens: Any, own_queries: Any, bias: Any, key_dim: int, val_dim: int) -> Any:
    """Return [B, M, H val_dim]: Hardswish of softmax(queries keys^T + bias) values, heads side by side.

    tokens: [B, N, H (2 key_dim + val_dim)], each head's query, key and value of each token; or, with own_queries
    [B, M, H key_dim] (M < N where attention subsamples), [B, N, H (key_dim + val_dim)]. bias: [H, M, N].
    """
    heads = bias.shape[0]
    parts = tokens.unflatten(2, (heads, -1)).permute(0, 2, 1, 3)
    if own_queries is None:
        queries, keys, values = parts.split([key_dim, key_dim, val_dim], dim=3)
    else:
        queries = own_queries.unflatten(2, (heads, -1)).permute(0, 2, 1, 3)
        keys, values = parts.split([key_dim, val_dim], dim=3)
    scores = queries @ keys.transpose(2, 3) + bias
    weighted = (scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)
    return _program.library().nn.functional.hardswish(weighted)


def _on_gpu(tokens, own_queries, bias, key_dim, val_dim):
    from runtimes import _attention_kernel

    return _attention_kernel.attention(tokens, own_queries, bias, key_dim, val_dim)


def _shape(tokens, own_queries, bias, key_dim, val_dim):
    return tokens.new_empty(tokens.shape[0], bias.shape[1], bias.shape[0] * val_dim)


def fuse(program: Any, size: int, device: str) -> Any:
    """Return a program on the processor with each attention of a LeViT as one operator; others stay as they are.

    size: of its images; device: that it is for. Raises UserError where the logits of the two differ, and for a GPU
    without Triton.
    """
    torch, module = _program.library(), program.module()
    if device == "cuda":
        import_library("triton", REMEDY)
    count = sum(_fuse(node, module, register()) for node in list(module.graph.nodes))
    log.info("%d attentions are one operator each", count)
    if not count:
        return program
    module.graph.eliminate_dead_code()
    module.recompile()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = program.module()(images), module(images)
    error = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    if not error <= TOLERANCE:
        raise UserError(f"attention as one operator changes the logits by {error:.1e}: leave out fused_attention")
    return _program.named_as(_program.export(module, size), module)


def _fuse(node, module, fused):
    """Replace an attention that ends in a node; return whether there is one."""
    parts = _captured(node, QUERIES_OF_TOKENS) or _captured(node, OWN_QUERIES)
    if parts is None:
        return False
    sizes = parts["sizes"]
    arguments = (parts["tokens"], parts.get("own_queries"), parts["bias"], sizes[0], sizes[-1])
    with module.graph.inserting_before(node):
        new = module.graph.call_function(fused, arguments)
    new.meta.update(node.args[0].meta)
    node.replace_all_uses_with(new)
    return True


def _captured(node, pattern):
    """Return what a pattern captures of the operators that end in a node, or None where they differ."""
    parts: dict[str, Any] = {}
    return parts if _matches(node, pattern, parts) else None


def _matches(value, pattern, parts):
    if isinstance(pattern, str):
        return parts.setdefault(pattern, value) == value
    if not isinstance(pattern, tuple) or getattr(value, "op", None) != "call_function":
        return value == pattern
    if _program.operator(value).replace("reshape", "view") != pattern[0]:
        return False
    return len(value.args) == len(pattern) - 1 and all(map(_matches, value.args, pattern[1:], itertools.repeat(parts)))
