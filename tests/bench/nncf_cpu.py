"""INT8 on `cpu` beside NNCF's: agreement with FP32, speed, and the time of each layer, in one process.

    python tests/bench/nncf_cpu.py results/digits [FOLDER ...] --models LeViT-128S > measured.json
    python tests/bench/nncf_cpu.py measured.json                           # as Markdown

A folder holds the artifacts of one seed of training: `clean/`, `quantized/` and `data/`. NNCF needs an environment of
its own: `pip install nncf==3.4.0 openvino==2026.4.1 onnx numpy pillow tqdm`. It quantizes the clean graph with its
defaults (300 images), and as a transformer; its models stay in FOLDER/nncf. Each contender takes normalized images,
and pixels as well: ours as take_pixels.py makes it, NNCF's by OpenVINO's own preprocessing. Agreement is of every
folder. Speeds, in turns, and layers are of the first, since they depend on no weights.
"""

import argparse
import json
import os
import statistics
import sys
import time
from itertools import permutations, product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))

from data import cache, preprocess  # noqa: E402

BATCHES, LEAST = (1, 16), 5
CLOCKS = {"wall": (0, time.perf_counter), "processor": (1, time.process_time)}  # {name: (threads, function)}
COPIES, QUERIES = 3, {1: 40, 16: 5}  # of a model whose layers are timed: the least of the copies counts
BASE, PIXELS = "NNCF default", ", pixels"
GROUPS = {
    "FullyConnected": "linear layers",
    "attention": "attention",
    "Convolution": "convolutions",
    "Split": "Split and Transposes",
    "Transpose": "Split and Transposes",
}
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def pixels(folder, split):
    """Return normalized images of a split; LeViT's models share their geometry."""
    return preprocess.normalize(cache.read(next(folder.glob(f"data/*.{split}.u8"))), *IMAGENET)


def nncf_models(folder, model):
    """Return {contender: path} of NNCF's models, which are made where they are missing."""
    import nncf
    import openvino

    found = {}
    for name, options in (("default", {}), ("transformer", {"model_type": nncf.ModelType.TRANSFORMER})):
        found[f"NNCF {name}"] = path = folder / f"nncf/{model}.{name}.xml"
        if not path.exists():
            source = openvino.Core().read_model(folder / f"clean/{model}.cpu.onnx")
            images = nncf.Dataset(list(pixels(folder, "calib")[:, None]))
            openvino.save_model(nncf.quantize(source, images, subset_size=300, **options), path, False)
    return found


def with_pixels(folder, paths):
    """Return {contender: path} of the models of `paths` that take pixels: ours as take_pixels.py makes them."""
    import openvino

    from graph import onnx_io
    from graph import pixels as taking

    found = {}
    for name, path in paths.items():
        found[name + PIXELS] = made = folder / f"nncf/{path.stem}.pixels{path.suffix}"
        made.parent.mkdir(exist_ok=True)
        if path.suffix == ".onnx":
            graph = taking.take(onnx_io.load(path), *IMAGENET, preprocess.normalize, "openvino")
            onnx_io.save(graph, made)
        else:
            openvino.save_model(preprocessed(openvino.Core().read_model(path)), made, False)
    return found


def preprocessed(network):
    """Return a model that OpenVINO's own preprocessing makes take pixels."""
    import openvino
    from openvino.preprocess import PrePostProcessor

    processor, (means, spreads) = PrePostProcessor(network), ([255 * v for v in values] for values in IMAGENET)
    entry = processor.input()
    entry.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    entry.model().set_layout(openvino.Layout("NCHW"))
    entry.preprocess().convert_element_type(openvino.Type.f32).mean(means).scale(spreads)
    return processor.build()


def compiled(path, batch, threads=0, hint="bf16", **properties):
    """Return a compiled model as the target `cpu` has it; threads: 0 for all cores."""
    import openvino

    core = openvino.Core()
    network = core.read_model(path)
    network.reshape([batch, *(size.get_length() for size in list(network.input(0).partial_shape)[1:])])
    properties.update(PERFORMANCE_HINT="LATENCY", INFERENCE_PRECISION_HINT=hint, NUM_STREAMS=1)
    return core.compile_model(network, "CPU", {**properties, "INFERENCE_NUM_THREADS": threads})


def logits(model, images):
    """Return the logits of all images, one at a time."""
    request = model.create_infer_request()
    return np.concatenate([request.infer([image[None]])[0].copy() for image in images])


def milliseconds(request, seconds, clock):
    """Return the median milliseconds of a query on a clock of CLOCKS."""
    times, end, (_, now) = [], time.monotonic() + seconds, CLOCKS[clock]
    request.infer()
    while len(times) < LEAST or time.monotonic() < end:
        start = now()
        request.infer()
        times.append(1000 * (now() - start))
    return statistics.median(times)


def contenders_of(folder, model):
    """Return ({contender: path}, {contender that takes pixels: path})."""
    paths = nncf_models(folder, model)
    for path in sorted((folder / "quantized").glob(f"{model}.*.cpu.onnx")):
        paths[f"ours, {path.name.split('.')[1]}"] = path
    return paths, with_pixels(folder, paths)


def agreement(folder, model, plain, taking):
    """Return {contender: {agreement, rms_error, paired}}.

    paired: numbers of images where it alone, and where NNCF's default alone, agrees with FP32.
    """
    images, decoded = pixels(folder, "val"), cache.read(next(folder.glob("data/*.val.u8")))
    reference, found, agrees = logits(compiled(folder / f"clean/{model}.cpu.onnx", 1, 0, "f32"), images), {}, {}
    for name, path in {**plain, **taking}.items():
        answers = logits(compiled(path, 1), decoded if name in taking else images)
        agrees[name] = answers.argmax(1) == reference.argmax(1)
        alone = [int((a & ~b).sum()) for a, b in permutations((agrees[name], agrees[BASE]))]
        error = float(np.sqrt(((answers - reference) ** 2).mean()))
        found[name] = {"agreement": 100 * float(agrees[name].mean()), "rms_error": error, "paired": alone}
    return found


def speeds(paths, rounds, seconds, clock):
    """Return {contender: {batch: [milliseconds of each round]}}, all contenders in turns."""
    requests = {}
    for name, batch in product(paths, BATCHES):
        requests[name, batch] = compiled(paths[name], batch, CLOCKS[clock][0]).create_infer_request()
        requests[name, batch].infer([images_of(requests[name, batch].model_inputs[0])])
    found = {name: {batch: [] for batch in BATCHES} for name in paths}
    for _, batch, name in product(range(rounds), BATCHES, paths):
        found[name][batch].append(milliseconds(requests[name, batch], seconds, clock))
    return found


def images_of(entry):
    """Return noise that a model's input takes."""
    noise, shape = np.random.default_rng(0), list(entry.shape)
    whole = entry.element_type.to_dtype() == np.uint8
    return noise.integers(0, 256, shape, np.uint8) if whole else noise.standard_normal(shape, np.float32)


def layers(path, batch, threads):
    """Return [[layer, type, precision, group, least milliseconds]] of the layers that a model executes."""
    least = None
    for _ in range(COPIES):
        model = compiled(path, batch, threads, PERF_COUNT=True)
        request, images = model.create_infer_request(), images_of(model.input(0))
        for _ in range(QUERIES[batch]):
            request.infer([images])
        rows = [_layer(node) for node in model.get_runtime_model().get_ordered_ops()]
        least = [[*a[:-1], min(a[-1], b[-1])] for a, b in zip(least or rows, rows)]
    convolution = next(n for n, row in enumerate(least) if row[1] == "Convolution")
    return [
        [name, kind, precision, "images" if n < convolution else GROUPS.get(group, "rest"), ms]
        for n, (name, kind, precision, group, ms) in enumerate(least)
        if kind not in ("Const", "Input", "Output") and ms
    ]


def _layer(node):
    info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
    kind, microseconds = info["layerType"], info.get("execTimeMcs", "")
    attention = kind == "Subgraph" and "MatMul" in info.get("originalLayersNames", "")
    ms = int(microseconds) / 1000 if microseconds.isdigit() else 0.0
    return [node.get_friendly_name(), kind, info["runtimePrecision"], "attention" if attention else kind, ms]


def measure(folders, model, rounds, seconds, clock):
    """Return all that is measured of a model, as JSON has it."""
    contenders = [contenders_of(folder, model) for folder in folders]
    paths = {**contenders[0][0], **contenders[0][1]}
    timed = {name: path for name, path in paths.items() if "transformer" not in name}
    everything = {"BF16": folders[0] / f"clean/{model}.cpu.onnx", **paths}
    return {
        "model": model,
        "load": os.getloadavg(),
        "agreement": [agreement(folder, model, *pair) for folder, pair in zip(folders, contenders)],
        "ms": speeds(everything, rounds, seconds, clock),
        "layers": {name: {b: layers(path, b, CLOCKS[clock][0]) for b in BATCHES} for name, path in timed.items()},
    }


def table(measured):
    """Return the Markdown tables: agreement, speed and layers."""
    return "\n\n".join(_markdown(rows) for rows in (_agreements(measured), _ratios(measured), _groups(measured)))


def _markdown(rows):
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def _agreements(measured):
    """One row for each model and seed, one column for each contender: agreement, RMS error, images it alone has."""
    names = list(measured[0]["agreement"][0])
    rows = [["model, seed: agreement % (RMS error; images that it alone : NNCF default alone has)", *names]]
    for one in measured:
        for seed, found in enumerate(one["agreement"]):
            cells = [(f[n]["agreement"], f[n]["rms_error"], *f[n]["paired"]) for f in [found] for n in names]
            rows.append([f"{one['model']}, {seed}", *("{:.2f} ({:.3f}; {} : {})".format(*cell) for cell in cells)])
    return rows


def _ratios(measured):
    """Median milliseconds, and median and range of the ratios of rounds to NNCF's default on the same images."""
    rows = [["model", "contender", *(f"ms at {batch} (NNCF default's over it)" for batch in BATCHES)]]
    for one in measured:
        for name, times in one["ms"].items():
            base, cells = one["ms"][BASE + (PIXELS if name.endswith(PIXELS) else "")], []
            for batch in map(str, BATCHES):
                ratios = sorted(theirs / own for theirs, own in zip(base[batch], times[batch]))
                middle = [statistics.median(values) for values in (times[batch], ratios)]
                cells.append("{:.2f} ({:.2f}, {:.2f} to {:.2f})".format(*middle, ratios[0], ratios[-1]))
            rows.append([one["model"], name, *cells])
    return rows


def _groups(measured):
    """Milliseconds (layers) of each group of layers."""
    groups = [*dict.fromkeys(GROUPS.values()), "images", "rest"]
    rows = [["model, batch, contender: ms (layers)", *groups, "all"]]
    for one in measured:
        for batch, (name, found) in product(map(str, BATCHES), one["layers"].items()):
            times = {group: [row[-1] for row in found[batch] if row[3] == group] for group in groups}
            times["all"] = [row[-1] for row in found[batch]]
            cells = (f"{sum(values):.2f} ({len(values)})" for values in times.values())
            rows.append([f"{one['model']}, {batch}, {name}", *cells])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--models", nargs="+", default=["LeViT-128S"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="processor: time of one thread, on a busy machine"
    )
    args = parser.parse_args()
    if args.paths[0].suffix == ".json":
        print(table(json.loads(args.paths[0].read_text())))
        return
    try:
        import nncf  # noqa: F401
    except ImportError:
        raise SystemExit(
            "error: nncf is not installed: pip install nncf==3.4.0 openvino==2026.4.1, apart from .venv"
        ) from None
    print(json.dumps([measure(args.paths, model, args.rounds, args.seconds, args.clock) for model in args.models]))


if __name__ == "__main__":
    main()
