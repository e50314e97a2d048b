"""The attention plugin without a GPU or TensorRT: it compiles, and what it does on the host is right.

Its arithmetic is checked on a GPU by tests/gpu/attention_kernel.py.
"""

import ctypes
import ctypes.util
import os
import shutil
import subprocess

import numpy as np
import pytest

from conftest import ROOT

PLUGIN, DECLARED = ROOT / "plugins" / "levit_attention", ROOT / "tests" / "recorded" / "tensorrt_headers"
FLOAT, HALF, INT8 = range(3)
ROWS, COLUMNS, PACKED = range(3)
TENSOR_CORES, WMMA, PLAIN = range(3)
FLOATS, HALVES, CODES = (FLOAT, ROWS, FLOAT, ROWS), (HALF, ROWS, HALF, ROWS), (INT8, PACKED, INT8, PACKED)
SIZES = (4, 16, 32, 196, 196, 0)
STAGE = (*SIZES, *HALVES)
FLOATING = ("LevitAttention", "LevitAttentionDownsample", "LevitAttentionImage", "LevitAttentionDownsampleImage")
NAMES = tuple(name + codes for codes in ("", "Int8In", "Int8Out", "Int8") for name in FLOATING)

TOOLS = ROOT / ".cache/nvcc/nvidia"
NVCC = shutil.which("nvcc", path=f"{os.environ['PATH']}:{TOOLS / 'cu13/bin'}")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NVCC, reason="there is no nvcc: `make check` installs one in .cache/nvcc"),
]


def nvcc(*words):
    done = subprocess.run([NVCC, "-std=c++17", "-I", str(PLUGIN), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The kernel's object for Orin, Turing's instructions compiled as well."""
    target = tmp_path_factory.mktemp("kernel") / "attention.o"
    kinds = [f"-gencode=arch=compute_{kind},code=sm_{kind}" for kind in (75, 87)]
    nvcc("-O1", "-Xcompiler", "-fPIC,-Wall", *kinds, "-c", PLUGIN / "attention.cu", "-o", target)
    return target


@pytest.fixture(scope="module")
def library(kernel):
    target = kernel.with_name("kernel.so")
    nvcc("-arch=sm_87", "-Xcompiler", "-fPIC", "-shared", kernel, ROOT / "tests/gpu/attention_c.cu", "-o", target)
    found = ctypes.CDLL(str(target))
    found.refused.restype = ctypes.c_char_p
    found.bytes_of.restype = ctypes.c_long
    return found


OLDER_KERNELS = """#include "plain.h"
#include "wmma.h"
namespace levit { namespace {
template __global__ void attention_wmma<half>(Launch const);
template __global__ void attention_wmma<int8_t>(Launch const);
template __global__ void attention_plain<float, float>(Launch const);
} }"""
INTEGERS = {8: "signed char", 16: "short", 32: "int", 64: "long long"}
HEADERS = {  # of the C++ library, which NVRTC has none of
    "cstddef": "namespace std { using size_t = decltype(sizeof(0)); }",
    "cstdint": " ".join(
        f"using int{n}_t = {name}; using uint{n}_t = unsigned {name.removeprefix('signed ')};"
        for n, name in INTEGERS.items()
    ),
    "cmath": "#define INFINITY __int_as_float(0x7f800000)",
    "cuda_runtime_api.h": "",
}


@pytest.mark.parametrize("capability", [70, 72])
def test_kernels_of_older_devices_compile_for_them(capability):
    """By NVRTC of CUDA 12. Registers must hold a value's sums, four warps of a block: no spills."""
    libraries = TOOLS / "cuda_nvrtc/lib"
    if not libraries.exists():
        pytest.skip("there is no NVRTC of CUDA 12: `make check` installs it in .cache/nvcc")
    ctypes.CDLL(str(libraries / "libnvrtc-builtins.so.12.9"), mode=ctypes.RTLD_GLOBAL)
    nvrtc, program, size = ctypes.CDLL(str(libraries / "libnvrtc.so.12")), ctypes.c_void_p(), ctypes.c_size_t()
    texts = [(ctypes.c_char_p * len(HEADERS))(*(t.encode() for t in of)) for of in (HEADERS.values(), HEADERS)]
    created = nvrtc.nvrtcCreateProgram(ctypes.byref(program), OLDER_KERNELS.encode(), b"w.cu", len(HEADERS), *texts)
    includes = [f"-I{folder}" for folder in (PLUGIN, TOOLS / "cu13/include")]
    words = [f"--gpu-architecture=sm_{capability}", "-std=c++17", "-default-device", "--ptxas-options=-v", *includes]
    compiled = nvrtc.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*map(str.encode, words)))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    text = log.value.decode()
    assert created == compiled == 0 and "error" not in text, text
    assert text.count(" 0 bytes spill stores") == text.count("Compiling entry function") == 3, text


def sizes(*numbers):
    return (ctypes.c_int * 10)(*numbers)


def test_tensor_cores_are_used_where_they_are(library):
    def way(capability=87, form=HALVES, shape=SIZES):
        return library.way_of(sizes(*shape, *form), capability)

    assert way() == way(75) == way(90) == way(form=CODES) == way(form=(*CODES[:2], *HALVES[2:])) == TENSOR_CORES
    assert way(70) == way(72) == way(72, CODES) == way(72, (*HALVES[:2], *CODES[2:])) == WMMA
    assert way(62) == way(form=FLOATS) == way(form=(*CODES[:2], FLOAT, COLUMNS)) == PLAIN
    assert way(shape=(4, 24, 32, 49, 49, 0)) == way(shape=(4, 16, 40, 49, 49, 0)) == PLAIN
    assert way(form=(HALF, COLUMNS, HALF, COLUMNS)) == PLAIN
    assert way(72, shape=(4, 16, 32, 576, 576, 0)) == WMMA and way(72, shape=(4, 16, 32, 1450, 1450, 0)) == PLAIN


@pytest.mark.parametrize(
    "shape, reason",
    [
        ((0, 16, 32, 4, 4, 0), b"must be positive"),
        ((4, 16, 32, 4, 9, 0), b"as many queries as keys"),
        ((4, 16, 32, 2000, 2000, 0), b"more keys than shared memory"),
        ((4, 16, 32, 4, 9, 1), None),
        (SIZES, None),
    ],
)
def test_refusals_are_one_line(library, shape, reason):
    found = library.refused(sizes(*shape, *HALVES))
    assert found is None if reason is None else reason in found and b"\n" not in found


@pytest.mark.parametrize("shape", [(3, 16, 32, 49, 196, 1), (2, 32, 64, 16, 16, 0), (1, 64, 128, 17, 33, 1)])
def test_the_bias_is_in_the_order_of_mmas_accumulators(library, shape):
    """Lane 4 g + t has rows g and g + 8, columns 2 t and 2 t + 1 of each [16, 8]: PTX ISA, mma.m16n8k16, matrix C."""
    heads, _, _, queries, keys, _ = shape
    asked = sizes(*shape, *HALVES)
    bias = np.random.default_rng(0).standard_normal((heads, queries, keys), dtype=np.float32)
    rows, columns = -(-queries // 16), -(-keys // 16)
    packed = np.empty((heads, rows, columns, 8, 4, 2, 2, 2), np.float16)  # g, t, columns' half, rows' half, 2 t or + 1
    assert library.bytes_of(asked, TENSOR_CORES) == packed.nbytes
    places = (array.ctypes.data_as(ctypes.c_void_p) for array in (bias, packed))
    library.packed(asked, TENSOR_CORES, *places)
    whole = packed.transpose(0, 1, 6, 3, 2, 5, 4, 7).reshape(heads, 16 * rows, 16 * columns)
    assert np.array_equal(whole[:, :queries, :keys], bias.astype(np.float16))
    assert np.all(whole[:, :, keys:] == -np.inf) and np.all(whole[:, queries:, :keys] == 0)


def test_without_a_gpu_a_launch_is_an_error(library):
    if ctypes.util.find_library("cuda"):
        pytest.skip("there is a driver, and perhaps a GPU")
    assert library.computed(sizes(*SIZES, *FLOATS), None, PLAIN, 1, None, None, None, None, None) != 0


@pytest.fixture(scope="module", params=[8, 10], ids=["IPluginV2DynamicExt", "IPluginV3"])
def version(request):
    """TensorRT's major version."""
    return request.param


@pytest.fixture(scope="module")
def shell(kernel, version):
    """A program that has the plugin, and asks it what TensorRT's builder asks."""
    target = kernel.with_name(f"shell{version}")
    sources = [PLUGIN / "plugin.cpp", DECLARED / "shell.cpp", kernel]
    nvcc("-arch=sm_87", f"-DNV_TENSORRT_MAJOR={version}", "-Xcompiler", "-Wall", "-I", DECLARED, *sources, "-o", target)

    def run(*words):
        done = subprocess.run([str(target), *map(str, words)], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("name", NAMES)
def test_the_plugin_answers_as_a_builder_expects(shell, name, version):
    own, image = "Downsample" in name, "Image" in name
    queries = 4 if own else 9
    said = shell(name, 2, 16, 32, queries, 9, 2 * queries * 9, 0.5)
    assert [line for line in said if line.startswith("has ")] == [f"has {known} 1" for known in NAMES]
    half, codes = ("fp16 hwc8", "int8 chw32") if image else ("fp16 linear", "int8 linear")
    ins, outs = (
        [codes] if name.endswith(ends) else ["fp32 linear", half] for ends in (("Int8In", "Int8"), ("Int8Out", "Int8"))
    )
    same = [f"takes {one} to {one}" for one in ins]
    pairs = same if len(ins) == len(outs) == 2 else [f"takes {one} to {other}" for one in ins for other in outs]
    assert [line for line in said if line.startswith("takes ")] == pairs
    assert ("result -1 64 60 70" if image else "result -1 50 64") in said
    assert f"copy {name} same" in said and "cut off refused" in said and "shorter refused" in said
    other = "attn: this engine was built with another version of the plugin"
    cut = {8: other, 10: f"attn ({name}): its bias is not [heads, queries, keys]"}
    assert f"error: {cut[version]}" in said


def test_a_bias_beyond_fp16_is_computed_in_fp32(shell):
    said = shell("LevitAttention", 2, 16, 32, 9, 9, 162, 7e4)
    assert [line for line in said if line.startswith("takes ")] == ["takes fp32 linear to fp32 linear"]


@pytest.mark.parametrize(
    "words, reason",
    [
        ((2, 16, 32, 9, 9, 161), "its bias is not [heads, queries, keys]"),
        ((2, 16, 32, 4, 9, 72), "without a tensor of their own there are as many queries as keys"),
        ((2, 16, 32, 3000, 3000, 1), "more keys than shared memory holds scores for"),
    ],
)
def test_bad_attributes_are_one_line(shell, words, reason):
    said = shell("LevitAttention", *words, 0)
    assert f"error: attn (LevitAttention): {reason}" in said and not [line for line in said if "result" in line]
