"""Write a visit's figures (visit.py) as a page in Markdown: engines, PyTorch, layers, the kernel, plans, training."""

import json
import statistics
from collections import defaultdict

FACTS = {"device": "Device", "version": "TensorRT", "driver": "driver"}
SPEEDS = ("device", "files")  # steps of tests/bench/loading.py
LAYERS = 8  # kinds of layer in a table
WAYS = {"eager": "CUDA graph", "fused": "CUDA graph, attention in Triton", "compiled": "torch.compile"}
WAYS["both"] = "torch.compile, attention in Triton"


def read(path):
    return json.loads(path.read_text()) if path.exists() else None


def page(folder):
    """Return the page of a folder that has what came back from a visit."""
    parts = [heading, notes, engines, forms, across, pytorch, pixels, choice, bundle, layers, kernel, sanitizers, plans]
    parts += [training, qat, trained, several, accuracy, scaling, loading, steps]
    return "\n\n".join(filter(None, (part(folder) for part in parts)))


def table(columns, rows):
    lines = [f"| {' | '.join(map(str, row))} |" for row in [columns, ["---"] * len(columns), *rows]]
    return "\n".join(lines)


def heading(folder):
    found = read(folder / "tensorrt.json") or {}
    facts = ", ".join(f"{name} {found[key]}" for key, name in FACTS.items() if found.get(key))
    return f"# LeViT on a GPU\n\n{facts + '. ' if facts else ''}Written by `python tests/gpu/visit.py tables {folder}`."


def notes(folder):
    """Return what somebody wrote about the visit: notes.txt beside the figures."""
    path = folder / "notes.txt"
    return path.read_text().strip() if path.exists() else None


def turns(folder):
    """Yield (model, precision, batch, {"": facts, "-fused": facts}) of each pair of engines timed in turns."""
    for path in sorted(folder.glob("*.turns.json")):
        model, precision, batch = path.name[: -len(".turns.json")].replace("@", ".").split(".")
        both = read(path)["engines"]
        yield model, precision, batch, {end: both[f"{model}.{precision}{end}@{batch}"] for end in ("", "-fused")}


def engines(folder):
    rows = []
    for model, precision, batch, both in turns(folder):
        names = [f"{model}.{precision}{end}@{batch}" for end in both]
        scores, built = ([read(folder / f"{name}.{what}.json") for name in names] for what in ("accuracy", "build"))
        ratio = both["-fused"]["over_first"]
        row = [f"{model} {precision}", batch, *(f"{facts['ms']:.4f}" for facts in both.values())]
        row.append(f"**{ratio['ratio']:.2f}x** ({ratio['low']:.2f} to {ratio['high']:.2f})")
        row += [each(scores, "top1", "{:.2f} %"), each(scores, "logit_error_over_spread", "{:.3g}")]
        row += [each(both.values(), "energy_mj_per_image", "{:.2f}"), each(built, "build_seconds", "{:.0f}")]
        rows.append(row)
    columns = ["", "batch", "plain, ms", "plugin, ms", "speed", "top-1", "logit error over spread", "mJ an image"]
    text = "Without and with the plugin, in turns in one process, 12 rounds, one CUDA graph without transfers.\n\n"
    return rows and f"## TensorRT\n\n{text}{table([*columns, 'build, s'], rows)}"


def forms(folder):
    """Return the forms of the quantized graph with the plugin beside FP16 with the plugin."""
    rows = []
    for path in sorted(folder.glob("*.forms.json")):
        for name, facts in read(path)["engines"].items():
            score, ratio = read(folder / f"{name}.accuracy.json"), facts["over_first"]
            row = [name, f"{facts['ms']:.4f}", f"**{ratio['ratio']:.2f}x** ({ratio['low']:.2f} to {ratio['high']:.2f})"]
            reformats = [layer["ms"] for layer in facts.get("layers", ()) if layer["type"] == "Reformat"]
            row += [each([score], "top1", "{:.2f} %"), each([score], "logit_error_over_spread", "{:.3g}")]
            rows.append([*row, f"{len(reformats)}, {sum(reformats):.3f} ms"])
    columns = ["engine", "ms", "speed over the first", "top-1", "logit error over spread", "reformats, profiled"]
    return rows and f"## Other graphs with the plugin\n\nIn turns in one process.\n\n{table(columns, rows)}"


def each(records, key, form):
    """Return a value of each record, where it is known."""
    values = [record and record[key] for record in records]
    return ", ".join("-" if value is None else form.format(value) for value in values)


def across(folder):
    """Return TensorRT's engines with the plugin in turns with PyTorch's."""
    rows = []
    for path in sorted(folder.glob("*.across.json"), key=lambda path: (path.name.split("@")[0], read(path)["batch"])):
        found = read(path)
        for name, facts in found["engines"].items():
            ratio, way = facts["over_first"], name.split("@")[0].rpartition("torch-")[2]
            label = WAYS.get(way, "TensorRT with the plugin")
            of_first = f"{1 / ratio['ratio']:.2f}x ({1 / ratio['high']:.2f} to {1 / ratio['low']:.2f})"
            rows.append([name.split(".")[0], found["batch"], label, f"{facts['ms']:.4f}", of_first])
    text = "FP16, in turns on one GPU, each in a process of its own, 12 rounds, one CUDA graph without transfers.\n\n"
    columns = ["", "batch", "engine", "ms", "TensorRT with the plugin over it"]
    return rows and f"## TensorRT and PyTorch on one GPU\n\n{text}{table(columns, rows)}"


def pixels(folder):
    """Return the engines that take pixels beside those that take normalized images, with transfers."""
    rows = []
    for path in sorted(folder.glob("*.transfers.json")):
        for name, facts in read(path)["engines"].items():
            ratio, score = facts["over_first"], read(folder / f"{name}.accuracy.json")
            speed = f"{ratio['ratio']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"
            rows.append([name, f"{facts['ms']:.4f}", speed, each([score], "top1", "{:.2f} %")])
    columns = ["engine", "ms with copies", "speed over the first", "top-1"]
    return rows and f"## uint8 in\n\nIn turns in one process, a query with its copies.\n\n{table(columns, rows)}"


def pytorch(folder):
    fused = {(m, b): both["-fused"]["ms"] for m, p, b, both in turns(folder) if p == "fp16"}
    rows = []
    for path in sorted(folder.glob("*.torch-*.benchmark.json")):
        model, way = path.name.split("@")[0].split(".torch-")
        score = read(path.with_name(path.name.replace("benchmark", "accuracy")))
        for entry in read(path)["benchmark"]:
            batch, ms = entry["batch"], entry["compute_ms"]["median"]
            other = fused.get((model, str(batch)))
            over = f"{ms / other:.2f}x" if other else "-"
            rows.append([model, batch, WAYS[way], f"{ms:.4f}", over, f"{score['top1']:.2f} %" if score else "-"])
    columns = ["", "batch", "FP16", "ms", "TensorRT with the plugin over it", "top-1"]
    return rows and f"## PyTorch\n\n{table(columns, sorted(rows, key=lambda row: row[:2]))}"


def layers(folder):
    parts = []
    for model, precision, batch, both in turns(folder):
        kinds = {end: defaultdict(lambda: [0, 0.0]) for end in both}
        for end, facts in both.items():
            for layer in facts.get("layers", ()):
                entry = kinds[end][f"{layer['type']} {layer['precision']}"]
                entry[0], entry[1] = entry[0] + 1, entry[1] + layer["ms"]
        names = sorted({*kinds[""], *kinds["-fused"]}, key=lambda name: -sum(kinds[e][name][1] for e in both))
        rows = [[name, *(f"{kinds[e][name][0]}, {kinds[e][name][1]:.3f}" for e in both)] for name in names[:LAYERS]]
        rows.append(
            [
                "all",
                *(f"{sum(n for n, _ in k.values())}, {sum(ms for _, ms in k.values()):.3f}" for k in kinds.values()),
            ]
        )
        parts.append(f"{model} {precision} at batch {batch}:\n\n" + table(["", "plain", "plugin"], rows))
    text = "Number of layers and their milliseconds by TensorRT's profiler, which uses no CUDA graph.\n\n"
    return parts and "## Layers\n\n" + text + "\n\n".join(parts)


def kernel(folder):
    found = read(folder / "kernel.json")
    if not found:
        return None
    worst = defaultdict(float)
    for errors in found["errors"].values():
        for case, error in errors.items():
            kind = case.rsplit(" ", 1)[0]
            worst[kind] = max(worst[kind], error)
    for errors in found.get("triton_errors", {}).values():
        for kind, error in errors.items():
            worst[f"Triton {kind}"] = max(worst[f"Triton {kind}"], error)
    rows = [[kind, f"{error:.1e}"] for kind, error in sorted(worst.items())]
    named = {
        "us": "kernel",
        "triton_us": "Triton",
        "int8_us": "INT8",
        "wmma_us": "wmma",
        "int8_wmma_us": "INT8 by wmma",
    }
    shown = [key for key in named if key in next(iter(next(iter(found["times"].values())).values()))]
    times = [
        [name, *(" / ".join(f"{t[key]:.2f}" for key in shown) for t in by.values())]
        for name, by in found["times"].items()
    ]
    batches = list(next(iter(found["times"].values())))
    text = f"Largest error over float64 in {len(found['errors'])} shapes (norm over norm; of INT8 results in codes):"
    text = f"{text}\n\n{table(['', 'error'], rows)}"
    heads = " / ".join(named[key] for key in shown)
    timed = f"Microseconds by batch: {heads}.\n\n{table(['', *batches], times)}"
    return f"## Kernel\n\n{text}\n\n{timed}"


def sanitizers(folder):
    rows = []
    for path in sorted(folder.glob("*check.txt")):
        last = [line for line in path.read_text().splitlines() if "SUMMARY" in line]
        rows.append([path.stem, last[-1].strip("= ") if last else "no summary"])
    return rows and "## compute-sanitizer\n\n" + table(["tool", "result"], rows)


def plans(folder):
    rows = []
    for path in sorted((folder / "planned").glob("*.json")):
        found = read(path)
        for number, verdict in enumerate(found.get("select") or [], 1):
            nodes = (found.get("plan") or {}).get("nodes_high_precision", "")
            rows.append([path.stem, f"{number} of {found['engine_builds']}", nodes, json.dumps(verdict)[:160]])
    return rows and "## The planted overflow\n\n" + table(["plan", "build", "nodes in FP32", "verdict"], rows)


def choice(folder):
    rows = []
    for path in sorted(folder.glob("kit/results/*/paired_benchmark/*.json")):
        for entry in read(path)["paired_benchmark"]:
            for engine in entry["engines"]:
                ms = engine["latency_ms"]["median"]
                rows.append([path.stem, entry["batch"], engine["precision"], f"{ms:.4f}", entry["stable"]])
    return rows and "## auto\n\n" + table(["choice", "batch", "finalist", "latency, ms", "stable"], rows)


def bundle(folder):
    """Return what the clients of a bundle printed there."""
    path = folder / "bundle/done.txt"
    if not path.exists():
        return None
    runs = [run for run in path.read_text().split("\n$ ") if "selftest" in run or "benchmark" in run]
    rows = []
    for run in runs:
        command, *lines = run.splitlines()
        client = "Python" if "classify.py" in command else "C++"
        rows += [[client, line.strip()] for line in lines if is_figure(line)]
    return "## A bundle's clients\n\n" + table(["client", "it prints"], rows)


def is_figure(line):
    """Return whether a client's line says what was measured there."""
    return line.startswith("selftest") or ("images/s" in line and "result.json" not in line)


def qat(folder):
    rows = []
    for found in map(read, sorted(folder.glob("qat.*.json"))):
        scores = (f"{name}: {value:.2f} %" for name, value in found["top1"].items())
        rows.append([found["device"], found.get("processes", 1), found["seconds"], *scores])
    return rows and "## QAT\n\n" + table(["device", "processes", "s", "top-1", "of the staged graph"], rows)


def trained(folder):
    rows = [[path.name.split(".")[0], found["device"], *found["seconds"].values(), f"{found['top1']:.2f} %"]
            for path in sorted(folder.glob("models/*.trained.json")) for found in [read(path)]]  # fmt: skip
    columns = ["", "device", "train, s", "export, s", "clean, s", "score, s", "top-1"]
    return rows and "## Trained there, all at once on one GPU\n\n" + table(columns, rows)


def scaling(folder):
    rows = [[found["model"], found["processes"], found["batch"], found["images_per_s"]]
            for found in map(read, sorted(folder.glob("scaling.*.json")))]  # fmt: skip
    columns = ["", "GPUs", "batch", "images/s of each epoch"]
    return rows and "## Training from JPEG files\n\n" + table(columns, rows)


def training(folder):
    rows = [[found["device"], found["training"]["epochs"], found["seconds"], found["before"], found["after"]]
            for found in map(read, sorted(folder.glob("finetune.*.json")))]  # fmt: skip
    return rows and "## Fine-tuning\n\n" + table(["device", "epochs", "s", "top-1 before", "after"], rows)


def several(folder):
    """Write what one process and several took (parallel.py)."""
    rows = []
    for found in map(read, sorted(folder.glob("parallel.*.json"))):
        cases = {name: case for name, case in found.items() if isinstance(case, dict) and "seconds" in case}
        rows += [[name, case["seconds"], case.get("top1", "-"), case["gpu_percent"]] for name, case in cases.items()]
    return rows and "## Several GPUs\n\n" + table(["case, processes", "s", "top-1", "GPUs busy, %"], rows)


def accuracy(folder):
    """Write the top-1 of trainings with several seeds on one GPU and on several (accuracy.py)."""
    scores, speeds = defaultdict(list), defaultdict(list)
    for found in map(read, sorted(folder.glob("accuracy.*.json"))):
        recipe = found["training"]
        row = found["dataset"], found["processes"], recipe.get("compute") or "bf16", recipe["batch"]
        scores[row] += found["top1"].values()
        speeds[row] += [speed for epochs in found["images_per_s"].values() for speed in epochs]
    rows = [[*row, ", ".join(f"{score:.2f}" for score in scores[row]), f"{statistics.mean(scores[row]):.2f}",
             round(statistics.median(speeds[row])) if speeds[row] else "-"] for row in scores]  # fmt: skip
    columns = ["dataset", "GPUs", "products in", "batch", "top-1 of each seed, %", "mean", "images/s"]
    return rows and "## Trainings from scratch\n\n" + table(columns, rows)


def loading(folder):
    """Write the images a second of trainings by where their images are (tests/bench/loading.py)."""
    rows = []
    for path in sorted(path for kind in SPEEDS for path in folder.glob(f"{kind}.*.json")):
        found, (kind, model, gpus) = read(path), path.name.split(".")[:3]
        every = found["images_per_s"]
        base = statistics.median(every.get("in memory", next(iter(every.values()))))
        for source, speeds in every.items():
            used = found.get("gpu_percent", {}).get(source, [])  # absent where a step was ended early
            busy = ", ".join(f"{value:.0f}" for value in used if value is not None) or "-"
            row = [kind, model, gpus, found["cores"], source, ", ".join(f"{speed:.0f}" for speed in speeds)]
            rows.append([*row, f"{statistics.median(speeds) / base:.2f}x", busy])
    columns = ["step", "", "GPUs", "processors", "images", "images/s of each round", "over memory", "a GPU busy, %"]
    return rows and "## Speed of training\n\n" + table(columns, rows)


def steps(folder):
    rows = [[name, step["status"], step["seconds"]] for name, step in (read(folder / "visit.json") or {}).items()]
    return rows and "## Steps\n\n" + table(["step", "status", "s"], rows)
