"""A bundle's model card: its README.md, filled in from the result."""

from __future__ import annotations

import string
from pathlib import Path

from core import addresses
from measure import proportion

TEMPLATE = Path(__file__).with_name("card.md")
UNKNOWN = "not recorded: set `license` in config.yaml"
SPEED = "| batch | images/s | median latency | p99 |\n| --- | --- | --- | --- |\n"
CPP = """
The client in C++ reads JPEG and PNG. It needs CMake, a compiler with C++17, libjpeg, libpng and $runtime:

    cmake -S cpp -B build && cmake --build build
    build/classify . selftest
    build/classify . photo.jpg photos/       # `build/classify --help` has more
"""
PLUGIN = "\nThe engine needs `plugin.so`, the attention plugin, compiled for this GPU and TensorRT.\n"


def text(result: dict, resolved: dict, names: list[str], licenses: dict, parts: set[str]) -> str:
    """Return the card. resolved: preprocess.json; licenses: {"weights"?, "images"?}; parts: the bundle's file names."""
    identity, accuracy, dataset = result["target_identity"], result["accuracy"], result["dataset"]
    has_cpp = "cpp/CMakeLists.txt" in parts
    recipe, runtime = result["provenance"]["recipe"], f"{identity['runtime']} {identity['version']}"
    values = {
        **{key: result[key] for key in ("model", "precision", "target")},
        **{key: resolved[key] for key in ("size", "interpolation", "crop_mode")},
        "name": f"{result['model']}.{result['precision']}.{result['target']}",
        "count": len(names),
        "network": f"`{recipe['model']['timm']}` of timm",
        "dataset": dataset["name"],
        "split": dataset["split"],
        "commit": result["provenance"]["git_commit"] or "unknown",
        "runtime": runtime,
        "device": f"{identity['device']} ({identity['architecture']})",
        "computes": computes_of(result),
        "images": accuracy["num_images"],
        "interval": "{:.2f} to {:.2f}".format(*proportion.interval(accuracy["top1"], accuracy["num_images"])),
        "agreement": f"{accuracy['agreement_with_fp32']:.2f} % of predictions are those of PyTorch in FP32",
        **{key: f"{accuracy[key]:.2f}" for key in ("top1", "top5")},
        "weights": weights_of(recipe),
        **{f"{kind}_license": licenses.get(kind) or UNKNOWN for kind in ("weights", "images")},
        "speed": SPEED + "\n".join(map(speed_of, result["benchmark"])),
        "plugin": PLUGIN if "plugin.so" in parts else "",
        "cpp": string.Template(CPP).substitute(runtime=runtime) if has_cpp else "",
        "cpp_files": "| `cpp/` | the client in C++ |\n" if has_cpp else "",
    }
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(values)


def computes_of(result: dict) -> str:
    """Return what an engine's layers compute in."""
    layers = result["engine"]["precision_of_layers"]
    counts = ", ".join(f"{count} {name}" for name, count in layers.items() if count) if layers else ""
    chosen = f"{result['chosen']}, chosen by {result['objective']}" if result["chosen"] else result["precision"]
    return f"{chosen} (layers: {counts})" if counts else chosen


def weights_of(recipe: dict) -> str:
    """Return where the weights come from. recipe: of a result's provenance."""
    source, url = recipe["dataset"]["weights"], recipe["model"].get("url")
    official = f"the official ones of {addresses.public(url)}" if url else "the official ones"
    if source == "official":
        return official
    if source == "train":
        return "trained by LeViT-TensorRT on the dataset"
    start = recipe["dataset"].get("from", "")
    if source == "finetune":
        return f"fine-tuned on the dataset, from {official if start == 'official' else Path(start).name}"
    return f"the user's file {Path(source).name}"


def speed_of(entry: dict) -> str:
    """Return the row of a timing in the card's table."""
    latency, unstable = entry["latency_ms"], "" if entry["stable"] else " (not stable)"
    figures = f"{entry['images_per_second']:.1f}{unstable} | {latency['median']:.3f} ms | {latency['p99']:.3f} ms"
    return f"| {entry['batch']} | {figures} |"
