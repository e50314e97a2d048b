"""INT8 on `cpu` beside NNCF's: agreement with FP32 and speed, all contenders in one process in turns.

    python tests/bench/nncf_cpu.py results/digits [FOLDER ...] --models LeViT-128S > measured.json
    python tests/bench/nncf_cpu.py measured.json                           # as Markdown

A folder holds the artifacts of one seed of training: `clean/`, `quantized/` and `data/`. NNCF needs an environment of
its own: `pip install nncf==3.4.0 openvino==2026.4.1 onnx numpy pillow tqdm`. It quantizes the clean graph with its
defaults (300 images), and as a transformer; its models stay in FOLDER/nncf. Models that take uint8 pixels are timed
too: ours, and NNCF's default with OpenVINO's own preprocessing.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))

from data import cache, preprocess  # noqa: E402

BATCHES, LEAST = (1, 16), 5
CLOCKS = {"wall": (0, time.perf_counter), "processor": (1, time.process_time)}  # {name: (threads, function)}
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
        found[f"{name}, pixels"] = made = folder / f"nncf/{path.stem}.pixels{path.suffix}"
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


def compiled(path, batch, threads=0, hint="bf16"):
    """Return an infer request as the target `cpu` compiles it; threads: 0 for all cores."""
    import openvino

    core = openvino.Core()
    network = core.read_model(path)
    network.reshape([batch, *(size.get_length() for size in list(network.input(0).partial_shape)[1:])])
    properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1}
    properties["INFERENCE_NUM_THREADS"] = threads
    return core.compile_model(network, "CPU", properties).create_infer_request()


def logits(request, images):
    """Return the logits of all images, at the batch of the request."""
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


def measure(folder, model, rounds, seconds, clock):
    """Return {contender: {agreement, ms: {batch: [of each round]}}}."""
    paths = {**nncf_models(folder, model), "FP32": folder / f"clean/{model}.cpu.onnx"}
    graphs = sorted((folder / "quantized").glob(f"{model}.*.cpu.onnx"))
    ours = {f"ours, {path.name.split('.')[1]}": path for path in graphs}
    paths.update(ours)
    taking = with_pixels(folder, {"NNCF default": paths["NNCF default"], **ours})
    paths.update(taking)
    decoded = cache.read(next(folder.glob("data/*.val.u8")))
    images, noise = pixels(folder, "val"), np.random.default_rng(0)
    reference = logits(compiled(paths["FP32"], 1, 0, "f32"), images)
    requests = {
        (name, batch): compiled(path, batch, CLOCKS[clock][0]) for name, path in paths.items() for batch in BATCHES
    }
    found = {name: {"ms": {batch: [] for batch in BATCHES}} for name in paths}
    for name, one in found.items():
        answers = logits(requests[name, 1], decoded if name in taking else images)
        one["agreement"] = 100 * float((answers.argmax(1) == reference.argmax(1)).mean())
        one["rms_error"] = float(np.sqrt(((answers - reference) ** 2).mean()))
    for (name, _), request in requests.items():
        shape, whole = list(request.model_inputs[0].shape), name in taking
        request.infer([noise.integers(0, 256, shape, np.uint8) if whole else noise.standard_normal(shape, np.float32)])
    for _ in range(rounds):
        for batch in BATCHES:
            for name in paths:
                found[name]["ms"][batch].append(milliseconds(requests[name, batch], seconds, clock))
    return found


def table(measured):
    """Return the Markdown table; ratios are medians over rounds, with the least and the largest."""
    rows = [["model, seed", "contender", "agreement %", "RMS of logits' error"]]
    rows[0] += [f"ms at {batch} (over NNCF default: median, range)" for batch in BATCHES]
    rows.append(["---"] * len(rows[0]))
    for one in measured:
        base = one["contenders"]["NNCF default"]["ms"]
        for name, values in one["contenders"].items():
            row = [f"{one['model']}, {one['seed']}", name, f"{values['agreement']:.2f}", f"{values['rms_error']:.4f}"]
            for batch in map(str, BATCHES):
                ratios = sorted(theirs / own for theirs, own in zip(base[batch], values["ms"][batch]))
                middle = statistics.median(values["ms"][batch])
                row.append(f"{middle:.2f} ({statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f})")
            rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


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
    found = []
    for model in args.models:
        for seed, folder in enumerate(args.paths):
            contenders = measure(folder, model, args.rounds, args.seconds, args.clock)
            found.append({"model": model, "seed": seed, "contenders": contenders})
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
