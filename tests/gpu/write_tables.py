"""Write a visit's numbers as Markdown tables: engines, PyTorch, ratios, cross-checks, where the time goes.

python tests/gpu/write_tables.py OUT > docs/measurements/NAME.md
"""

import json
import sys
from collections import defaultdict
from pathlib import Path


def read(folder, name):
    path = Path(folder) / name
    return json.loads(path.read_text()) if path.exists() else None


def stages(folder):
    """Return the names of the engines that were built, in the order of their builds."""
    steps = read(folder, "visit.json")["steps"]
    return [name[: -len(".build")] for name in steps if name.endswith(".build")]


def engines(folder):
    lines = [
        "| engine | build s | layers int8 / fp16 / fp32 | compute ms, median | p99 | CoV | latency ms | images/s "
        "| mJ/image "
        "| top-1 | agrees with FP32 | largest logit error |",
        "| --- " * 12 + "|",
    ]
    for stage in stages(folder):
        built, timed, score = (read(folder, f"{stage}.{part}.json") for part in ("build", "benchmark", "accuracy"))
        if built is None:
            lines.append(f"| {stage} | not run |" + " |" * 10)
            continue
        counts = built["precision_of_layers"] or {}
        split = " / ".join(str(counts.get(k, "?")) for k in ("int8", "fp16", "fp32"))
        row = [stage, f"{built['build_seconds']:.0f}", split]
        row += _timing(timed["benchmark"][0]) if timed else ["not run"] + [""] * 5
        row += _score(score) if score else ["not run", "", ""]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def _timing(entry):
    compute, energy = entry["compute_ms"], entry["energy_mj_per_image"]
    return [
        *(f"{compute[key]:.4f}" for key in ("median", "p99")),
        f"{100 * entry['coefficient_of_variation']:.1f} %{'' if entry['stable'] else ' (not stable)'}",
        f"{entry['latency_ms']['median']:.4f}",
        f"{entry['images_per_second']:.0f}",
        f"{energy:.2f}" if energy else "",
    ]


def _score(score):
    return [f"{score['top1']:.2f} %", f"{score['agreement_with_fp32']:.2f} %", f"{score['max_abs_logit_error']:.4f}"]


def ratios(folder):
    """Return each engine's speed over FP32's and PyTorch's of the same batch, from medians of compute."""
    medians = {}
    for stage in stages(folder):
        timed = read(folder, f"{stage}.benchmark.json")
        if timed:
            medians[stage] = timed["benchmark"][0]["compute_ms"]["median"]
    torch = (read(folder, "torch.json") or {"ms": {}})["ms"]
    for name, value in torch.items():
        if "median" in value:
            *words, batch = name.split()
            medians[f"PyTorch {' '.join(words)}@{batch}"] = value["median"]
    lines = ["| | batch | ms | over TensorRT FP32 | images/s of compute |", "| --- " * 5 + "|"]
    for name, value in sorted(medians.items(), key=lambda item: (item[0].split("@")[1], item[1])):
        label, batch = name.split("@")
        base = medians.get(f"fp32@{batch}")
        ratio = f"{base / value:.2f}" if base else ""
        lines.append(f"| {label} | {batch} | {value:.4f} | {ratio} | {1000 * int(batch) / value:.0f} |")
    return lines


def checks(folder):
    lines = [
        "| engine | own loop, graph | host clock, graph | differ | own loop, no graph | host clock, no graph | differ "
        "| older interface, graph | logits differ |",
        "| --- " * 9 + "|",
    ]
    for stage in stages(folder):
        found = read(folder, f"{stage}.cross.json")
        if not found or "error" in found.get("graph", {"error": ""}):
            continue
        row = [stage]
        for way in ("graph", "no_graph"):
            own, host = found[way]["queries_ms"], found[f"wall_{way}"]["ms"]
            row += [f"{own:.4f}", f"{host:.4f}", f"{100 * (own / host - 1):+.1f} %"]
        older = found.get("Bindings_graph", {})
        row += [
            f"{older['compute']['median']:.4f}" if "compute" in older else "",
            str(max(found["interfaces"].values())),
        ]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def layers(folder, top=12):
    lines = []
    for stage in stages(folder):
        found = (read(folder, f"{stage}.cross.json") or {}).get("layers")
        if not isinstance(found, list):
            continue
        kinds = defaultdict(lambda: [0, 0.0])
        for layer in found:
            entry = kinds[layer["type"], layer["precision"]]
            entry[0], entry[1] = entry[0] + 1, entry[1] + layer["ms"]
        lines += [f"\n`{stage}`: {sum(layer['ms'] for layer in found):.4f} ms in {len(found)} layers\n"]
        lines += ["| type | precision | layers | ms |", "| --- " * 4 + "|"]
        for (kind, precision), (count, ms) in sorted(kinds.items(), key=lambda item: -item[1][1])[:top]:
            lines.append(f"| {kind} | {precision} | {count} | {ms:.4f} |")
    return lines


def main():
    folder = sys.argv[1]
    for title, part in (("Engines", engines), ("Speed", ratios), ("Timing checked", checks), ("Layers", layers)):
        print(f"## {title}\n")
        print("\n".join(part(folder)) + "\n")


if __name__ == "__main__":
    main()
