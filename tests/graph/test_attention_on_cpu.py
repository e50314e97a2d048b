"""The attention kernels on a processor, a thread for each of CUDA's (tests/support/cuda_on_cpu), against float64.

tests/gpu/attention_kernel.py checks the same on a GPU, for more shapes.
"""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler"),
]
SUPPORT, PLUGIN = ROOT / "tests/support/cuda_on_cpu", ROOT / "plugins/levit_attention"
LAUNCH = "kernel<<<grid, block, bytes, stream>>>(launch);"
PROGRAM = """#include "cuda_on_cpu.h"
namespace levit { namespace {
alignas(128) half shared[1 << 17], staged[1 << 17];
alignas(128) float floats[1 << 16];
template <typename... Arguments> void start_on_cpu(Arguments const&... arguments)
{
    std::memset(shared, 255, sizeof(shared)), std::memset(staged, 255, sizeof(staged));
    std::memset(floats, 255, sizeof(floats));
    on_cpu(arguments...);
}
} }
#include "attention.cu"
#include "attention_c.cu"
extern "C" void use_processors(int count) { processors = count; }
"""
FLOAT, HALF, INT8 = range(3)
ROWS, COLUMNS, PACKED = range(3)
MMA, WMMA, PLAIN = range(3)
TYPES = (np.float32, np.float16, np.int8)
LIMITS = (2e-6, 1e-3, 0.7)  # of the error's norm over the result's; of codes: the largest, half of which is rounding
FORMS = {
    "fp16": (HALF, ROWS, HALF, ROWS),
    "int8 images": (INT8, PACKED, INT8, PACKED),
    "int8 tokens": (INT8, ROWS, INT8, ROWS),
    "int8 to fp16": (INT8, PACKED, HALF, ROWS),
    "fp16 to int8": (HALF, ROWS, INT8, PACKED),
}
PLAIN_FORMS = {
    "fp32": (FLOAT, ROWS, FLOAT, ROWS),
    "fp32 images": (FLOAT, COLUMNS, FLOAT, COLUMNS),
    "int8 to fp32": (INT8, PACKED, FLOAT, COLUMNS),
    "int8 images": FORMS["int8 images"],
}
SHAPES = [(2, 16, 32, 37, 37, 0), (3, 16, 64, 20, 49, 1), (1, 32, 64, 17, 216, 1), (1, 64, 128, 1, 33, 1)]
SCALES = (1 / 32, 3 / 64, 1 / 40, 1 / 50)  # of q, k, v and the result


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpu")
    for path in [*PLUGIN.glob("*.h"), PLUGIN / "attention.cu", ROOT / "tests/gpu/attention_c.cu"]:
        shutil.copy(path, folder)
    (folder / "ptx.h").write_text("#pragma once\n")
    text = (PLUGIN / "attention.cu").read_text()
    assert text.count(LAUNCH) == 1
    (folder / "attention.cu").write_text(text.replace(LAUNCH, "start_on_cpu(kernel, launch, grid, block);"))
    (folder / "all.cpp").write_text(PROGRAM)
    words = ["-std=c++20", "-O1", "-w", "-fPIC", "-shared", "-pthread", "-I", str(SUPPORT)]
    subprocess.run(["g++", *words, str(folder / "all.cpp"), "-o", str(folder / "all.so")], check=True)
    found = ctypes.CDLL(str(folder / "all.so"))
    found.bytes_of.restype = ctypes.c_long
    return found


def ordered(tokens, order):
    """Return tokens [B, N, C] laid out in memory in an order: rows, columns, or columns packed by 32."""
    columns = tokens if order == ROWS else tokens.transpose(0, 2, 1)
    if order == PACKED:
        padded = np.pad(columns, ((0, 0), (0, -columns.shape[1] % 32), (0, 0)))
        columns = padded.reshape(len(padded), -1, 32, padded.shape[2]).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(columns)


def unordered(memory, order, size):
    """Return tokens [B, N, C] of a size from memory that `ordered` laid out."""
    batch, count, channels = size
    if order == PACKED:
        return memory.reshape(batch, -1, count, 32).transpose(0, 2, 1, 3).reshape(batch, count, -1)[..., :channels]
    return memory.reshape(size) if order == ROWS else memory.reshape(batch, channels, count).transpose(0, 2, 1)


def expected(parts, bias, size):
    q, k, v = (part.transpose(0, 2, 1, 3) for part in parts)
    scores = q @ k.transpose(0, 1, 3, 2) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    sums = weights @ v / weights.sum(-1, keepdims=True)
    return (sums * np.clip(sums + 3, 0, 6) / 6).transpose(0, 2, 1, 3).reshape(size)


def error(library, shape, form, way, batch=2):
    """Return the error of a form, in the measure of LIMITS."""
    (heads, key_dim, val_dim, queries, keys, own), (number, order, out_number, out_order) = shape, form
    drawn = np.random.default_rng(1).standard_normal
    scales = [*(SCALES[:3] if number == INT8 else (1, 1, 1)), SCALES[3]]

    def given(*size):
        values = drawn(size)
        return (np.clip(np.rint(values * 40), -128, 127) if number == INT8 else values).astype(TYPES[number])

    bias = (2 * drawn((heads, queries, keys))).astype(np.float32)
    tokens = given(batch, keys, heads * ((1 if own else 2) * key_dim + val_dim))
    parts = np.split(tokens.reshape(batch, keys, heads, -1), [key_dim] if own else [key_dim, 2 * key_dim], axis=3)
    q = given(batch, queries, heads * key_dim) if own else None
    parts = [q.reshape(batch, queries, heads, -1), *parts] if own else parts
    size = (batch, queries, heads * val_dim)
    wanted = expected([part.astype(np.float64) * scale for part, scale in zip(parts, scales)], bias, size)

    asked, result = (ctypes.c_int * 10)(*shape, *form), np.full_like(ordered(wanted, out_order), 99, TYPES[out_number])
    packed = np.empty(library.bytes_of(asked, way) + 64, np.uint8)
    packed = packed[-packed.ctypes.data % 64 :]
    library.packed(asked, way, ctypes.c_void_p(bias.ctypes.data), ctypes.c_void_p(packed.ctypes.data))
    arrays = [x if x is None else ordered(x, order) for x in (q, tokens)]
    places = [x if x is None else ctypes.c_void_p(x.ctypes.data) for x in (*arrays, packed, result)]
    assert library.computed(asked, (ctypes.c_float * 4)(*scales), way, batch, *places, None) == 0
    got = unordered(result, out_order, size).astype(np.float64)
    if out_number == INT8:
        return np.abs(got - np.clip(wanted / scales[3], -128, 127)).max()
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way, processors", [(MMA, 1), (MMA, 1000), (WMMA, 1)], ids=["mma", "mma of few", "wmma"])
def test_tensor_cores(library, shape, form, way, processors):
    library.use_processors(processors)
    assert error(library, shape, FORMS[form], way) < LIMITS[FORMS[form][2]]


@pytest.mark.parametrize("shape", [*SHAPES[:2], (2, 24, 40, 9, 9, 0)], ids=str)
@pytest.mark.parametrize("form", PLAIN_FORMS)
def test_any_device(library, shape, form):
    assert error(library, shape, PLAIN_FORMS[form], PLAIN, batch=1) < LIMITS[PLAIN_FORMS[form][2]]
