"""LeViT's attention as one Triton kernel: scores, bias, softmax, product with the values, Hardswish.

A program computes BLOCK_QUERIES queries of one head of one image. It takes the keys in blocks, keeps each query's
largest score and sum of exponentials, and scales what it has summed when a larger score comes (Milakov and Gimelshein,
"Online normalizer calculation for softmax"). Sums and softmax are float32. Triton reads the kernel's source, so that
this module imports it at the top; only what runs on a GPU imports this module.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _kernel(
    tokens,
    own,
    bias,
    result,
    queries,
    keys,
    HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    VAL_DIM: tl.constexpr,
    OWN: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    KEY_PAD: tl.constexpr,
    VAL_PAD: tl.constexpr,
):
    """Write a block of queries of a head; sizes and layouts are those of `attention`."""
    first: tl.constexpr = KEY_DIM if OWN else 2 * KEY_DIM  # number at which a head's values start
    row = HEADS * (first + VAL_DIM)
    image, head = (tl.program_id(0) // HEADS).to(tl.int64), tl.program_id(0) % HEADS
    at_query = tl.program_id(1) * BLOCK_QUERIES + tl.arange(0, BLOCK_QUERIES)
    at_dim, at_value = tl.arange(0, KEY_PAD), tl.arange(0, VAL_PAD)
    of_head = tokens + image * keys * row + head * (first + VAL_DIM)
    if OWN:
        from_query = own + image * queries * HEADS * KEY_DIM + head * KEY_DIM + at_query[:, None] * (HEADS * KEY_DIM)
    else:
        from_query = of_head + at_query[:, None] * row
    is_query = (at_query < queries)[:, None]
    q = tl.load(from_query + at_dim[None, :], mask=is_query & (at_dim < KEY_DIM)[None, :], other=0.0)
    from_bias = bias + (head * queries + at_query[:, None]) * keys
    from_key, from_value = of_head + (first - KEY_DIM), of_head + first
    x = _weighted(q, from_key, from_value, from_bias, is_query, keys, row, KEY_DIM, VAL_DIM, BLOCK_KEYS, VAL_PAD)
    x = x * tl.minimum(tl.maximum(x + 3.0, 0.0), 6.0) / 6.0
    to = result + (image * queries + at_query[:, None]) * (HEADS * VAL_DIM) + head * VAL_DIM + at_value[None, :]
    tl.store(to, x.to(result.dtype.element_ty), mask=is_query & (at_value < VAL_DIM)[None, :])


@triton.jit
def _weighted(
    q,
    from_key,
    from_value,
    from_bias,
    is_query,
    keys,
    row,
    KEY_DIM: tl.constexpr,
    VAL_DIM: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    VAL_PAD: tl.constexpr,
):
    """Return softmax(q keys^T + bias) values of a head, float32 [BLOCK_QUERIES, VAL_PAD]; row: numbers of a token."""
    at_key, at_dim, at_value = tl.arange(0, BLOCK_KEYS), tl.arange(0, q.shape[1]), tl.arange(0, VAL_PAD)
    is_dim, is_value = (at_dim < KEY_DIM)[None, :], (at_value < VAL_DIM)[None, :]
    most = tl.full([q.shape[0]], -1e30, tl.float32)
    total = tl.zeros([q.shape[0]], tl.float32)
    summed = tl.zeros([q.shape[0], VAL_PAD], tl.float32)
    for start in range(0, keys, BLOCK_KEYS):
        at, is_key = (start + at_key)[:, None] * row, start + at_key < keys
        k = tl.load(from_key + at + at_dim[None, :], mask=is_key[:, None] & is_dim, other=0.0)
        v = tl.load(from_value + at + at_value[None, :], mask=is_key[:, None] & is_value, other=0.0)
        b = tl.load(from_bias + (start + at_key)[None, :], mask=is_query & is_key[None, :], other=0.0).to(tl.float32)
        scores = (tl.dot(q, tl.trans(k), input_precision="ieee") + b) * LOG2_E
        scores = tl.where(is_key[None, :], scores, -1e30)
        larger = tl.maximum(most, tl.max(scores, 1))
        shares = tl.exp2(scores - larger[:, None])
        scale = tl.exp2(most - larger)
        total = total * scale + tl.sum(shares, 1)
        summed = summed * scale[:, None] + tl.dot(shares.to(v.dtype), v, input_precision="ieee")
        most = larger
    return summed / total[:, None]


def attention(
    tokens: torch.Tensor, own_queries: torch.Tensor | None, bias: torch.Tensor, key_dim: int, val_dim: int
) -> torch.Tensor:
    """Return [B, M, H val_dim] of what `_attention.reference` describes, on a GPU."""
    tokens, bias = tokens.contiguous(), bias.contiguous()
    own_queries = tokens if own_queries is None else own_queries.contiguous()
    (batch, keys, _), (heads, queries, _) = tokens.shape, bias.shape
    result = tokens.new_empty(batch, queries, heads * val_dim)
    block_queries, block_keys = blocks(queries, keys)
    _kernel[(batch * heads, triton.cdiv(queries, block_queries))](
        tokens,
        own_queries,
        bias,
        result,
        queries,
        keys,
        HEADS=heads,
        KEY_DIM=key_dim,
        VAL_DIM=val_dim,
        OWN=own_queries is not tokens,
        BLOCK_QUERIES=block_queries,
        BLOCK_KEYS=block_keys,
        KEY_PAD=padded(key_dim),
        VAL_PAD=padded(val_dim),
        num_warps=4,
    )
    return result


def padded(size: int) -> int:
    """Return the least power of 2 that is not below a size, and at least 16: what tensor cores multiply."""
    return max(16, triton.next_power_of_2(size))


def blocks(queries: int, keys: int) -> tuple[int, int]:
    """Return the number of queries of a program and of keys at a time."""
    return min(64 if keys > 64 else 32, padded(queries)), min(64, padded(keys))
