"""INT8 by other quantizers' defaults beside ours: accuracy and speed on this processor, in one run.

    python tests/bench/quantizers.py graphs FOLDER                    # each quantizer's graph, from the same 512 images
    python tests/bench/quantizers.py measure FOLDER > measured.json   # engines, accuracy, timings that take turns
    python tests/bench/quantizers.py table measured.json              # as Markdown

Peers start from the exported graph (or the trained network) and keep their defaults; ours are the graphs of
LeViT-128S on digits for `cpu` and for `ort`, which must be there. All are scored on the val split and timed under
OpenVINO, as the target `cpu` compiles them, and under ONNX Runtime. modelopt.onnx needs the packages of
nvidia-modelopt[onnx] on PYTHONPATH.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
import traceback
from pathlib import Path

import turns

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

MODEL, CLASSES = "LeViT-128S", 10
DIGITS = ROOT / "results/digits"
EXPORTED, CHECKPOINT = DIGITS / f"onnx/{MODEL}.onnx", DIGITS / f"checkpoints/{MODEL}.pth"
IMAGES, CHUNK, BATCHES, LEAST = 512, 16, (1, 16), 5
MOVES = ("Transpose", "Reshape", "Cast", "Split", "Slice", "Squeeze", "Unsqueeze", "Identity")
RUNTIMES = {"OpenVINO": "openvino", "ONNX Runtime": "onnxruntime"}
FLOAT = {"compute": "fp32", "batches": list(BATCHES)}
INT8 = {"compute": "int8", "high_precision": "fp32", "batches": list(BATCHES)}
BESIDE_BF16 = {**INT8, "high_precision": "bf16"}


# Graphs: function (path to write)


def model_row():
    from core import resolved

    return resolved.read(DIGITS / f"models/{MODEL}.json", resolved.VISION)


def pixels(split, count=None):
    """Return (normalized images [N, 3, size, size], labels [N]) of a split."""
    from data import cache, index, preprocess

    row, table = model_row(), DIGITS / "data/index.json"
    labels = index.labels(index.read(table), split)[:count]
    images = cache.read(DIGITS / f"data/{MODEL}.{split}.u8")[: len(labels)]
    return preprocess.normalize(images, row["mean"], row["std"]), labels


def ort_static(activation):
    """Return a writer of onnxruntime.quantization's graph: Q/DQ, ranges by min and max, one scale a weight."""

    def write(path):
        from onnxruntime import quantization as peer
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(peer.CalibrationDataReader):
            def __init__(self, images):
                self.rest = iter([images[at : at + CHUNK] for at in range(0, len(images), CHUNK)])

            def get_next(self):
                chunk = next(self.rest, None)
                return None if chunk is None else {"input_0": chunk}

        quant_pre_process(str(EXPORTED), f"{path}.prepared")
        reader, kind = Reader(pixels("calib", IMAGES)[0]), getattr(peer.QuantType, activation)
        peer.quantize_static(f"{path}.prepared", str(path), reader, activation_type=kind)
        os.unlink(f"{path}.prepared")

    return write


def modelopt_onnx(path):
    """Write modelopt.onnx.quantization's graph."""
    import modelopt.onnx.quantization as peer

    data = {"input_0": pixels("calib", IMAGES)[0]}
    peer.quantize(str(EXPORTED), "int8", data, calibration_eps=["cpu"], output_path=str(path), log_level="WARNING")


def modelopt_torch(path):
    """Write the graph of modelopt.torch's INT8_DEFAULT_CFG, exported by torch."""
    import modelopt.torch.quantization as peer
    import torch

    from model import checkpoint, zoo

    torch.manual_seed(0)
    images = torch.from_numpy(pixels("calib", IMAGES)[0])
    network = checkpoint.load_into(zoo.create(model_row(), CLASSES), CHECKPOINT).eval()

    def calibrate(network):
        with torch.no_grad():
            for chunk in images.split(CHUNK):
                network(chunk)

    network = peer.quantize(network, peer.INT8_DEFAULT_CFG, calibrate)
    names, free = {"input_names": ["input_0"], "output_names": ["output_0"]}, {"input_0": {0: "batch"}}
    options = {**names, "dynamic_axes": {**free, "output_0": {0: "batch"}}, "opset_version": 17, "dynamo": False}
    torch.onnx.export(network, images[:2], str(path), **options)


def ours(precision, variant="cpu"):
    name = f"quantized/{MODEL}.{precision}" if precision else f"clean/{MODEL}"
    return lambda path: shutil.copy(DIGITS / f"{name}.{variant}.onnx", path)


GRAPHS = {  # contender: (writer, recipe of its engine)
    "FP32": (ours(None), FLOAT),
    "BF16": (ours(None), {**FLOAT, "compute": "bf16"}),
    "ONNX Runtime S8S8": (ort_static("QInt8"), BESIDE_BF16),
    "ONNX Runtime U8S8": (ort_static("QUInt8"), BESIDE_BF16),
    "modelopt.onnx": (modelopt_onnx, BESIDE_BF16),
    "modelopt.torch": (modelopt_torch, BESIDE_BF16),
    "ours, int8_ptq": (ours("int8_ptq"), BESIDE_BF16),
    "ours, int8_qat": (ours("int8_qat"), BESIDE_BF16),
    "ours, int8_qat beside FP32": (ours("int8_qat"), INT8),
    "ours, int8_ptq for ort": (ours("int8_ptq", "ort"), INT8),
    "ours, int8_qat for ort": (ours("int8_qat", "ort"), INT8),
}
ALONE = {"beside FP32": "openvino", "for ort": "onnxruntime"}  # {end of a contender's name: its one runtime}


def write_graphs(folder):
    """Write the graphs that are not there yet; a quantizer that fails says why and is left out."""
    for name, (write, _) in GRAPHS.items():
        path = folder / f"{name}.onnx"
        if path.exists():
            continue
        try:
            write(path)
            print(f"{name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
        except Exception as problem:
            traceback.print_exc()
            print(f"{name}: no graph: {type(problem).__name__}: {problem}", flush=True)


# Measuring


def contenders(folder):
    """Return {label: (engine, runtime, recipe)} of all graphs that there are, once for each runtime."""
    found = {}
    for name, (_, recipe) in GRAPHS.items():
        for label, runtime in RUNTIMES.items():
            beside = {**recipe, "high_precision": "fp32"} if "high_precision" in recipe else recipe
            given = recipe if runtime == "openvino" else beside
            able = runtime == "openvino" or recipe["compute"] != "bf16"
            able &= all(only == runtime for end, only in ALONE.items() if name.endswith(end))
            if able and (folder / f"{name}.onnx").exists():
                found[f"{name} / {label}"] = (folder / f"{name}.{runtime}.engine", runtime, given)
    return found


def build(folder):
    """Build the engines and return {label: what each is and how accurate}; what does not compile is said."""
    import runtimes
    from measure import accuracy
    from measure.logits import read_logits

    images, labels = pixels("val")
    reference, found = read_logits(DIGITS / f"accuracy/{MODEL}.torch.npy"), {}
    for label, (engine, runtime, recipe) in contenders(folder).items():
        module, graph = runtimes.load(runtime), folder / f"{label.split(' / ')[0]}.onnx"
        try:
            described = module.build(str(graph), recipe, None, str(engine))
            scores = accuracy.score(module.load(str(engine)).run(images), labels, reference)
        except Exception as problem:
            found[label] = {"failed": f"{type(problem).__name__}: {problem}"[:300]}
            continue
        kept = ("layer_count", "precision_of_layers", "reformats")
        found[label] = {**{key: described[key] for key in kept}, "recipe": recipe, "graph_bytes": graph.stat().st_size}
        kept = ("top1", "agreement_with_fp32", "max_abs_logit_error", "num_images")
        found[label].update({key: scores[key] for key in kept}, products=products_of(graph))
        print(f"{label}: {found[label]['top1']:.2f} %", file=sys.stderr, flush=True)
    return found


def products_of(path):
    """Return how many of a graph's convolutions and matrix products read quantized values on both sides."""
    import onnx

    graph = onnx.load(str(path)).graph
    made = {name: node for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    quantized = sum(all(_dequantized(name, made) for name in node.input[:2]) for node in products)
    return {"quantized": quantized, "all": len(products)}


def _dequantized(name, made):
    """Return whether a tensor comes out of DequantizeLinear, with nothing on the way that changes its numbers."""
    while name in made and made[name].op_type in MOVES:
        name = made[name].input[0]
    return name in made and made[name].op_type == "DequantizeLinear"


def timer(contender):
    """Return a function (batch, seconds) -> median milliseconds of a query, of `label|engine|runtime|clock`."""
    import runtimes
    from measure import timing

    _, engine, runtime, clock = contender.split("|")
    session = runtimes.load(runtime).load(engine, threads=1 if clock == "processor" else 0)
    if clock == "processor":
        return lambda batch, seconds: processor_time(session, timing.images_for(session, batch), seconds)
    return turns.medians(lambda batch, loop: session.time(timing.images_for(session, batch), loop).latency)


def processor_time(session, images, seconds):
    """Return the median milliseconds that all threads of this process are computing for one query of `images`."""
    run, _ = session.query(images)
    times, end = [], time.monotonic() + seconds
    while len(times) < LEAST or time.monotonic() < end:
        start = time.process_time()
        run()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def measure(folder, rounds, seconds, clock):
    """Return what was measured, as a JSON value."""
    from devices import probe

    found, load = build(folder), [os.getloadavg()[0]]
    able = {f"{label}|{given[0]}|{given[1]}|{clock}": label for label, given in contenders(folder).items()}
    able = {key: label for key, label in able.items() if "failed" not in found[label]}
    wanted = [(key, batch) for batch in BATCHES for key in able]
    patience = {"processor": 0, "wall": turns.PATIENCE}[clock]
    times = turns.speeds(timer, list(able), wanted, rounds, seconds, patience)
    load.append(os.getloadavg()[0])
    for (key, batch), milliseconds in times.items():
        found[able[key]].setdefault("ms", {})[str(batch)] = milliseconds
    facts = {name: probe.facts(runtime) for name, runtime in RUNTIMES.items()}
    settings = {"cores": len(os.sched_getaffinity(0)), "clock": clock, "seconds": seconds}
    return {**settings, "load_before_and_after": load, "facts": facts, "contenders": found}


# The table


def table(measured):
    """Return the Markdown table, a row a contender; speeds are of the round with the least median, each one's own."""
    rows, found = [], measured["contenders"]
    base = found["FP32 / OpenVINO"]["ms"]
    for label, one in found.items():
        if "failed" in one:
            rows.append([*label.split(" / "), one["failed"].replace("|", " "), "", "", "", ""])
            continue
        speeds = [_speed(one["ms"][str(batch)], base[str(batch)], batch) for batch in BATCHES]
        products, layers = one["products"], one["precision_of_layers"]
        quantized = f"{products['quantized']} of {products['all']}"
        own = [f"{layers['int8']} of {one['layer_count']}", str(one["reformats"])]
        rows.append(
            [*label.split(" / "), f"{one['top1']:.2f} ({one['agreement_with_fp32']:.1f})", quantized, *own, *speeds]
        )
    head = ["quantizer", "runtime", "top-1 % (agrees with FP32)", "products quantized", "INT8 layers", "reformats"]
    head += [f"images/s at {batch} (over FP32)" for batch in BATCHES]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _speed(own, base, batch):
    return f"{1000 * batch / min(own):.0f} ({min(base) / min(own):.2f}x)"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("graphs", "measure", "table"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each contender in each round")
    clocks = {"wall": "all cores, by the wall", "processor": "one thread, by what it computes: for a busy machine"}
    parser.add_argument("--clock", choices=clocks, default="wall", help=str(clocks))
    args = parser.parse_args()
    if args.step == "graphs":
        args.path.mkdir(parents=True, exist_ok=True)
        write_graphs(args.path)
    elif args.step == "measure":
        print(json.dumps(measure(args.path, args.rounds, args.seconds, args.clock), indent=1, sort_keys=False))
    else:
        print(table(json.loads(args.path.read_text())))


if __name__ == "__main__":
    main()
