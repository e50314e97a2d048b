"""Check the attention kernel against float64 on a GPU, and time it in a CUDA graph beside the one in Triton.

    python3 tests/gpu/attention_kernel.py OUT.json [BATCH,BATCH,... [MODEL]]

With batches it only checks those, and with a model its shapes and those of no model (for compute-sanitizer). It needs
PyTorch and nvcc.
"""

import ctypes
import itertools
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
FLOAT, HALF, INT8 = range(3)
ROWS, COLUMNS, PACKED = range(3)
MMA, WMMA, PLAIN = range(3)
NUMBERS, ORDERS, WAYS = ("fp32", "fp16", "int8"), ("", " columns", " packed"), ("mma", "wmma", "plain")
TYPES = {FLOAT: torch.float32, HALF: torch.float16, INT8: torch.int8}
LIMITS = {FLOAT: 2e-6, HALF: 1e-3, INT8: 1.0}  # of the error's norm over the result's; codes: of the largest error
FORMS = [(number, order, number, order) for number in (FLOAT, HALF) for order in (ROWS, COLUMNS)]
FORMS += [(INT8, order, INT8, order) for order in (ROWS, PACKED)]
FORMS += [(INT8, PACKED, HALF, ROWS), (HALF, ROWS, INT8, PACKED), (INT8, PACKED, FLOAT, COLUMNS)]
HALVES, CODED = (HALF, ROWS, HALF, ROWS), (INT8, PACKED, INT8, PACKED)
SCALES = (1 / 32, 3 / 64, 1 / 40, 1 / 50)  # of q, k, v and the result
TRITON_LIMITS = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def library():
    """Return the kernel's library, built for this GPU."""
    folder, source = tempfile.mkdtemp(), ROOT / "plugins" / "levit_attention"
    major, minor = torch.cuda.get_device_capability()
    files = [str(source / "attention.cu"), str(ROOT / "tests" / "gpu" / "attention_c.cu")]
    flags = ["-O3", "-std=c++17", "-lineinfo", f"-arch=sm_{major}{minor}", "-Xcompiler", "-fPIC", "-shared"]
    subprocess.run(["nvcc", *flags, "-I", str(source), *files, "-o", f"{folder}/a.so"], check=True)
    return ctypes.CDLL(f"{folder}/a.so")


def ordered(tensor, order):
    """Return tokens [B, N, C] laid out in memory in an order: rows, columns, or columns packed by 32."""
    if order == ROWS:
        return tensor.contiguous()
    columns = tensor.transpose(1, 2)
    if order == COLUMNS:
        return columns.contiguous()
    padded = torch.nn.functional.pad(columns, (0, 0, 0, -columns.shape[1] % 32))
    batch, channels, count = padded.shape
    return padded.view(batch, channels // 32, 32, count).transpose(2, 3).contiguous()


def unordered(memory, order, shape):
    """Return memory in an order as [B, N, C] of a shape."""
    batch, count, channels = shape
    if order == ROWS:
        return memory.view(shape)
    if order == PACKED:
        return memory.view(batch, -1, count, 32).transpose(1, 2).reshape(batch, count, -1)[..., :channels]
    return memory.view(batch, channels, count).transpose(1, 2)


class Case:
    """Random tensors of an attention, and who computes it."""

    def __init__(self, lib, shape, batch, form):
        heads, key_dim, val_dim, queries, keys, own = self.shape = shape
        self.lib, self.batch, self.form = lib, batch, form
        self.scales = [*(SCALES[:3] if form[0] == INT8 else (1.0, 1.0, 1.0)), SCALES[3]]
        made = torch.Generator(device="cuda").manual_seed(1)

        def draw(*sizes):
            return torch.randn(*sizes, device="cuda", generator=made)

        self.bias = 2 * draw(heads, queries, keys)
        self.q = self.number(draw(batch, queries, heads * key_dim)) if own else None
        width = heads * ((1 if own else 2) * key_dim + val_dim)
        self.tokens = self.number(draw(batch, keys, width))
        self.size = (batch, queries, heads * val_dim)
        room = ordered(torch.empty(self.size), form[3])
        self.out = torch.full(room.shape, 99, device="cuda", dtype=TYPES[form[2]])
        self.sizes = (ctypes.c_int * 10)(*shape, *form)

    def number(self, values):
        """Return random numbers as the kernel takes them: codes of both signs, to the last one."""
        if self.form[0] == INT8:
            return (values * 40).round().clamp(-128, 127).to(torch.int8)
        return values.to(TYPES[self.form[0]])

    def parts(self):
        heads, key_dim, val_dim, queries, keys, own = self.shape
        cut = self.tokens.view(self.batch, keys, heads, -1)
        if own:
            return (self.q.view(self.batch, queries, heads, key_dim), *cut.split([key_dim, val_dim], 3))
        return cut.split([key_dim, key_dim, val_dim], 3)

    def expected(self):
        q, k, v = (x.double().permute(0, 2, 1, 3) * s for x, s in zip(self.parts(), self.scales))
        o = torch.softmax(q @ k.transpose(-1, -2) + self.bias.double(), -1) @ v
        return (o * (o + 3).clamp(0, 6) / 6).permute(0, 2, 1, 3).reshape(self.size)

    def ours(self, way):
        """Return a function that computes it the way that is named, into `out`."""
        host = self.bias.cpu().contiguous()
        packed = torch.empty(self.lib.bytes_of(self.sizes, way), dtype=torch.uint8)
        self.lib.packed(self.sizes, way, ctypes.c_void_p(host.data_ptr()), ctypes.c_void_p(packed.data_ptr()))
        bias, scales = packed.cuda(), (ctypes.c_float * 4)(*self.scales)
        given = [x if x is None else ordered(x, self.form[1]) for x in (self.q, self.tokens)]
        places = [ctypes.c_void_p(x.data_ptr()) if x is not None else None for x in (*given, bias, self.out)]

        def compute(kept=(given, bias)):
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            status = self.lib.computed(self.sizes, scales, way, self.batch, *places, stream)
            assert status == 0, status

        return compute

    def error(self, wanted):
        """Return the norm of the error of `out` over that of the result; codes: the largest error, in codes."""
        got = unordered(self.out, self.form[3], self.size).double()
        if self.form[2] == INT8:
            return (got - (wanted / self.scales[3]).clamp(-128, 127)).abs().max().item()
        return ((got - wanted).norm() / wanted.norm()).item()

    def triton(self):
        """Return a function that computes it by the kernel of the target torch_cuda, and returns it."""
        _, key_dim, val_dim, *_ = self.shape
        bias = self.bias.to(self.out.dtype)
        return lambda: _attention_kernel.attention(self.tokens, self.q, bias, key_dim, val_dim)


def ways_of(lib, case):
    """Return the ways of computing a case: those of compute capability 9.0 and 7.2, and the plain one."""
    return sorted({lib.way_of(case.sizes, 90), lib.way_of(case.sizes, 72), PLAIN})


def check(lib, batches, shapes):
    """Return {shape: {case: error}}; raise AssertionError where an error is over its limit or a number is unwritten."""
    found = {}
    for name, shape in shapes.items():
        for batch, form in itertools.product(batches, FORMS):
            case = Case(lib, shape, batch, form)
            wanted = case.expected()
            for way in ways_of(lib, case):
                case.out.fill_(99 if form[2] == INT8 else float("nan"))
                case.ours(way)()
                error = case.error(wanted)
                assert error < LIMITS[form[2]], (name, batch, form, way, error)
                key = " to ".join(dict.fromkeys(NUMBERS[n] + ORDERS[o] for n, o in (form[:2], form[2:])))
                found.setdefault(name, {})[f"{key} {WAYS[way]} {batch}"] = error
        print(name, {key: f"{value:.1e}" for key, value in found[name].items()}, flush=True)
    return found


def check_triton():
    """Return {shape: {type: error}} of the kernel in Triton, as `check` does: FP16 everywhere, others for one model."""
    found = {}
    for name, shape in {**SHAPES, **OTHERS}.items():
        for dtype, limit in TRITON_LIMITS.items() if name.startswith(("128S", *OTHERS)) else ((torch.float16, 1e-3),):
            case = Case(None, shape, 3, FORMS[0])
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
            case, count = Case(lib, shape, batch, HALVES), 30 if batch < 256 else 10
            codes = Case(lib, shape, batch, CODED)
            runs = {"us": case.ours(MMA), "triton_us": case.triton(), "int8_us": codes.ours(MMA)}
            runs.update(wmma_us=case.ours(WMMA), int8_wmma_us=codes.ours(WMMA), plain_us=case.ours(PLAIN))
            found.setdefault(name, {})[batch] = {key: timed(run, count) for key, run in runs.items()}
        print(name, {b: {key: f"{us:.2f}" for key, us in r.items()} for b, r in found[name].items()}, flush=True)
    return found


def main():
    lib, shapes = library(), {**SHAPES, **OTHERS}
    if len(sys.argv) > 2:
        model = "".join(sys.argv[3:4])
        kept = {name: shape for name, shape in shapes.items() if name.startswith(model) or name in OTHERS}
        check(lib, [int(batch) for batch in sys.argv[2].split(",")], kept)
        return
    found = {"device": torch.cuda.get_device_name(), "errors": check(lib, [1, 3, 16, 64], shapes)}
    found["times"] = sweep(lib)
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1, sort_keys=True))
    found["triton_errors"] = check_triton()
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
