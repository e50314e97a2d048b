"""What a user would run instead: LeViT-128S in PyTorch, eager in a CUDA graph and compiled, FP32 and FP16.

    python3 tests/gpu/torch_side.py OUT.json [warm]

Weights are random: they decide no speed. `folded` is this project's form of the network (BatchNorm folded, heads
averaged), `plain` is timm's. TF32 is off, as in the engines. `warm` only compiles, into torch's cache of compiled
kernels: a second call then compiles in seconds.
"""

import functools
import itertools
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))

import torch  # noqa: E402

SECONDS = 0.5


def timed(run):
    """Return the median, mean and number of milliseconds of `run()` between two events."""
    for _ in range(20):
        run()
    torch.cuda.synchronize()
    pairs, start = [], time.perf_counter()
    while time.perf_counter() - start < SECONDS or len(pairs) < 50:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        pairs.append((begin, end))
    values = sorted(begin.elapsed_time(end) for begin, end in pairs)
    return {"median": values[len(values) // 2], "mean": sum(values) / len(values), "queries": len(values)}


def graphed(model, images):
    """Return a function that replays the model on these images from a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            model(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(images)
    return graph.replay


def compiled(model, images):
    torch._dynamo.reset()
    model(images)  # timm keeps attention biases of the first call: they must not live in a CUDA graph's memory
    run = torch.compile(model, mode="reduce-overhead", dynamic=False)
    return lambda: run(images)


def eager(model, images):
    return lambda: model(images)


WAYS_OF_MODELS = [("plain", "graph"), ("plain", "compile"), ("folded", "graph"), ("plain", "eager")]
WAYS = {"graph": graphed, "compile": compiled, "eager": eager}


def models():
    import timm

    plain = timm.create_model("levit_128s", num_classes=10).eval()
    found = {"plain": plain}
    try:
        from model import deploy

        found["folded"] = deploy.fold(plain, torch.randn(8, 3, 224, 224))
    except Exception as error:  # noqa: BLE001 (another timm)
        print("not folded:", error, file=sys.stderr)
    return found


def main():
    out, warm = sys.argv[1], sys.argv[2:] == ["warm"]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    import timm

    found = {"torch": torch.__version__, "timm": timm.__version__, "device": torch.cuda.get_device_name(), "ms": {}}

    def keep(name, function):
        start = time.perf_counter()
        try:
            found["ms"][name] = {"warm": function()() is not None} if warm else timed(function())
        except Exception as error:  # noqa: BLE001
            found["ms"][name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        found["ms"][name]["seconds"] = round(time.perf_counter() - start, 1)
        Path(out).write_text(json.dumps(found, indent=1))
        print(name, found["ms"][name], file=sys.stderr, flush=True)

    cases = [(batch, kind) for batch in (64, 1) for kind in (torch.float32, torch.float16)]
    ways = [("plain", "compile")] if warm else WAYS_OF_MODELS
    with torch.inference_mode():
        for (name, way), (batch, kind) in itertools.product(ways, cases):
            model = models().get(name)
            if model is not None:
                model = model.to("cuda", kind)
                images = torch.randn(batch, 3, 224, 224, device="cuda", dtype=kind)
                keep(f"{name} {way} {str(kind)[6:]} {batch}", functools.partial(WAYS[way], model, images))
    Path(out).with_suffix(".done").write_text("")


if __name__ == "__main__":
    main()
