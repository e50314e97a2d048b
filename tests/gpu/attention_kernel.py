"""Check the attention kernel against float64 on a GPU, and time it in a CUDA graph beside the one in Triton.

    python3 tests/gpu/attention_kernel.py OUT.json [BATCH,BATCH,...]

With batches it only checks those (for compute-sanitizer). It needs PyTorch and nvcc.
"""

import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

import torch  # noqa: E402

from runtimes import _attention_kernel  # noqa: E402

MODELS = {  # heads of the three stages, numbers of a token in the first two, key_dim
    "128S": ((4, 6, 8), (128, 256), 16),
    "128": ((4, 8, 12), (128, 256), 16),
    "192": ((3, 5, 6), (192, 288), 32),
    "256": ((4, 6, 8), (256, 384), 32),
    "384": ((6, 9, 12), (384, 512), 32),
}
TOKENS = (196, 49, 16)  # at 224 px


def shapes_of(name):
    """Return {what: (heads, key_dim, val_dim, queries, keys, own queries)} of a model's attentions."""
    heads, widths, dim = MODELS[name]
    found = {f"{name} stage {i + 1}": (heads[i], dim, 2 * dim, TOKENS[i], TOKENS[i], 0) for i in range(3)}
    for i, width in enumerate(widths):
        found[f"{name} to stage {i + 2}"] = (width // dim, dim, 4 * dim, TOKENS[i + 1], TOKENS[i], 1)
    return found


SHAPES = {what: shape for name in MODELS for what, shape in shapes_of(name).items()}
TIMED = ("128S", "256")
OTHERS = {
    **{"512 stage 1": (8, 64, 128, 196, 196, 0), "384 px": (4, 16, 32, 576, 576, 0), "one token": (2, 16, 32, 1, 1, 0)},
    **{
        "384 px to stage 2": (8, 32, 128, 144, 576, 1),
        "odd": (3, 16, 32, 37, 101, 1),
        "key_dim 24": (3, 24, 40, 49, 49, 0),
    },
    **{
        "17 tokens": (2, 32, 64, 17, 17, 0),
        "209 tokens": (2, 16, 32, 209, 209, 0),
        "key_dim 48": (2, 48, 96, 49, 196, 1),
    },
}
FLOAT, HALF = 0, 1
TYPES = {FLOAT: torch.float32, HALF: torch.float16}
LIMITS = {FLOAT: 2e-6, HALF: 1e-3}  # of the error's norm over the result's
TRITON_LIMITS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
TENSOR_CORES, PLAIN = 0, 1


def library():
    """Return the kernel's library, built for this GPU."""
    folder, source = tempfile.mkdtemp(), ROOT / "plugins" / "levit_attention"
    major, minor = torch.cuda.get_device_capability()
    files = [str(source / "attention.cu"), str(ROOT / "tests" / "gpu" / "attention_c.cu")]
    flags = ["-O3", "-std=c++17", "-lineinfo", f"-arch=sm_{major}{minor}", "-Xcompiler", "-fPIC", "-shared"]
    subprocess.run(["nvcc", *flags, "-I", str(source), *files, "-o", f"{folder}/a.so"], check=True)
    return ctypes.CDLL(f"{folder}/a.so")


class Case:
    """Random tensors of an attention, and who computes it."""

    def __init__(self, lib, shape, batch, number, columns=False):
        heads, key_dim, val_dim, queries, keys, own = self.shape = shape
        self.lib, self.batch, self.number, self.columns = lib, batch, number, columns
        made = torch.Generator(device="cuda").manual_seed(1)

        def draw(*sizes):
            return torch.randn(*sizes, device="cuda", generator=made)

        self.bias = 2 * draw(heads, queries, keys)
        self.q = draw(batch, queries, heads * key_dim).to(TYPES[number]) if own else None
        width = heads * ((1 if own else 2) * key_dim + val_dim)
        self.tokens = draw(batch, keys, width).to(TYPES[number])
        self.out = torch.full((batch, queries, heads * val_dim), float("nan"), device="cuda", dtype=TYPES[number])
        self.sizes = (ctypes.c_int * 7)(*shape, columns)

    def parts(self):
        heads, key_dim, val_dim, queries, keys, own = self.shape
        cut = self.tokens.view(self.batch, keys, heads, -1)
        if own:
            return (self.q.view(self.batch, queries, heads, key_dim), *cut.split([key_dim, val_dim], 3))
        return cut.split([key_dim, key_dim, val_dim], 3)

    def expected(self):
        q, k, v = (x.double().permute(0, 2, 1, 3) for x in self.parts())
        o = torch.softmax(q @ k.transpose(-1, -2) + self.bias.double(), -1) @ v
        return (o * (o + 3).clamp(0, 6) / 6).permute(0, 2, 1, 3).reshape(self.out.shape)

    def ours(self, way):
        """Return a function that computes it the way that is named, into `out`."""
        host = self.bias.cpu().contiguous()
        packed = torch.empty(self.lib.bytes_of(self.sizes, way), dtype=torch.uint8)
        self.lib.packed(self.sizes, way, ctypes.c_void_p(host.data_ptr()), ctypes.c_void_p(packed.data_ptr()))
        bias = packed.cuda()
        given = [x.transpose(1, 2).contiguous() if self.columns and x is not None else x for x in (self.q, self.tokens)]
        places = [ctypes.c_void_p(x.data_ptr()) if x is not None else None for x in (*given, bias, self.out)]

        def compute(kept=(given, bias)):
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            status = self.lib.computed(self.sizes, self.number, way, self.batch, *places, stream)
            assert status == 0, status

        return compute

    def triton(self):
        """Return a function that computes it by the kernel of the target torch_cuda, and returns it."""
        _, key_dim, val_dim, *_ = self.shape
        bias = self.bias.to(self.out.dtype)
        return lambda: _attention_kernel.attention(self.tokens, self.q, bias, key_dim, val_dim)


def check(lib, batches):
    """Return {shape: {case: error}}; raise AssertionError where an error is over its limit or a number is unwritten."""
    found = {}
    for name, shape in {**SHAPES, **OTHERS}.items():
        for batch in batches:
            for number, columns in ((FLOAT, False), (FLOAT, True), (HALF, False), (HALF, True)):
                case = Case(lib, shape, batch, number, columns)
                for way in sorted({lib.way_of(case.sizes, number, 90), PLAIN}):
                    case.out.fill_(float("nan"))
                    case.ours(way)()
                    got = case.out.view(batch, -1, shape[3]).transpose(1, 2) if columns else case.out
                    error = ((got.double() - case.expected()).norm() / case.expected().norm()).item()
                    assert error < LIMITS[number], (name, batch, number, columns, way, error)
                    key = f"{'fp16' if number else 'fp32'}{' columns' if columns else ''} {'plain' if way else 'mma'}"
                    found.setdefault(name, {})[f"{key} {batch}"] = error
        print(name, {key: f"{value:.1e}" for key, value in found[name].items()}, flush=True)
    return found


def check_triton():
    """Return {shape: {type: error}} of the kernel in Triton, as `check` does: FP16 everywhere, others for one model."""
    found = {}
    for name, shape in {**SHAPES, **OTHERS}.items():
        for dtype, limit in TRITON_LIMITS.items() if name.startswith(("128S", *OTHERS)) else ((torch.float16, 1e-3),):
            case = Case(None, shape, 3, FLOAT)
            case.tokens, case.bias, case.out = (x.to(dtype) for x in (case.tokens, case.bias, case.out))
            case.q = None if case.q is None else case.q.to(dtype)
            got, wanted = case.triton()().double(), case.expected()
            error = ((got - wanted).norm() / wanted.norm()).item()
            found.setdefault(name, {})[str(dtype)[6:]] = error
            assert error < limit, (name, dtype, error)
    return found


def timed(run, count):
    """Return the microseconds of a run, the median of seven replays of a graph of `count`."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    graph, values = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        for _ in range(count):
            run()
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        values.append(begin.elapsed_time(end))
    return sorted(values[3:])[3] / count * 1e3


def sweep(lib):
    found = {}
    for name, shape in [item for model in TIMED for item in shapes_of(model).items()]:
        for batch in (1, 16, 64, 256):
            case, count = Case(lib, shape, batch, HALF), 30 if batch < 256 else 10
            runs = {"us": case.ours(TENSOR_CORES), "triton_us": case.triton()}
            found.setdefault(name, {})[batch] = {key: timed(run, count) for key, run in runs.items()}
        print(name, {b: f"{r['us']:.2f} / {r['triton_us']:.2f}" for b, r in found[name].items()}, flush=True)
    return found


def main():
    lib = library()
    if len(sys.argv) > 2:
        check(lib, [int(batch) for batch in sys.argv[2].split(",")])
        return
    found = {"device": torch.cuda.get_device_name(), "errors": check(lib, [1, 3, 16, 64]), "times": sweep(lib)}
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1, sort_keys=True))
    found["triton_errors"] = check_triton()
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
