"""Check the attention kernel against float64 on a GPU, and time it in a CUDA graph beside the same in Triton.

    python3 tests/gpu/attention_kernel.py OUT.json [BATCH,BATCH,...]

With batches it only checks those (for compute-sanitizer). It needs PyTorch and nvcc.
"""

import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
import triton.language as tl

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {  # heads, key_dim, val_dim, queries, keys, own queries
    **{"128S stage 1": (4, 16, 32, 196, 196, 0), "128S to stage 2": (8, 16, 64, 49, 196, 1)},
    **{"128S stage 2": (6, 16, 32, 49, 49, 0), "128S to stage 3": (16, 16, 64, 16, 49, 1)},
    **{"128S stage 3": (8, 16, 32, 16, 16, 0), "256 stage 1": (4, 32, 64, 196, 196, 0)},
    **{"256 to stage 2": (8, 32, 128, 49, 196, 1), "256 stage 2": (6, 32, 64, 49, 49, 0)},
    **{"256 to stage 3": (12, 32, 128, 16, 49, 1), "256 stage 3": (8, 32, 64, 16, 16, 0)},
}
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
TENSOR_CORES, PLAIN = 0, 1


@triton.jit
def triton_kernel(q, k, v, bias, out, queries, keys, sqb, sqm, sqh, skb, skn, skh, svb, svn, svh, sob, som, soh,
                  H: tl.constexpr, KD: tl.constexpr, VD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    image, head = tl.program_id(0) // H, tl.program_id(0) % H
    m, n = tl.program_id(1) * BM + tl.arange(0, BM), tl.arange(0, BN)
    kd, vd = tl.arange(0, KD), tl.arange(0, VD)
    there = (m[:, None] < queries) & (n[None, :] < keys)
    a = tl.load(q + image * sqb + m[:, None] * sqm + head * sqh + kd[None, :], mask=m[:, None] < queries, other=0.0)
    b = tl.load(k + image * skb + n[None, :] * skn + head * skh + kd[:, None], mask=n[None, :] < keys, other=0.0)
    c = tl.load(v + image * svb + n[:, None] * svn + head * svh + vd[None, :], mask=n[:, None] < keys, other=0.0)
    place = head * queries * keys + m[:, None] * keys + n[None, :]
    s = tl.dot(a, b) + tl.load(bias + place, mask=there, other=0.0).to(tl.float32)
    s = tl.where(n[None, :] < keys, s, -1e30)
    p = tl.exp(s - tl.max(s, 1)[:, None])
    o = tl.dot((p / tl.sum(p, 1)[:, None]).to(c.dtype), c)
    o = o * tl.minimum(tl.maximum(o + 3.0, 0.0), 6.0) / 6.0
    to = out + image * sob + m[:, None] * som + head * soh + vd[None, :]
    tl.store(to, o.to(c.dtype), mask=m[:, None] < queries)


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
        heads, key_dim, val_dim, queries, keys, _ = self.shape
        q, k, v = self.parts()
        o, bias = self.out.view(self.batch, queries, heads, val_dim), self.bias.to(self.out.dtype)
        sizes = {"H": heads, "KD": key_dim, "VD": val_dim, "BN": max(16, triton.next_power_of_2(keys))}
        sizes["BM"] = 16 if queries <= 16 else (64 if keys > 64 else 32)
        strides = [stride for x in (q, k, v, o) for stride in x.stride()[:3]]
        grid = (self.batch * heads, triton.cdiv(queries, sizes["BM"]))
        return lambda: triton_kernel[grid](q, k, v, bias, o, queries, keys, *strides, **sizes, num_warps=4)


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
    for name, shape in SHAPES.items():
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


if __name__ == "__main__":
    main()
