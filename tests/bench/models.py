"""The published networks side by side on this machine's processor: speed, latency, engine size, build, peak memory.

    python tests/bench/models.py OUT.json [--batches 1 16] [LeViT-128S ...]

Runs the workflow itself in a checkout of its own, on digits with random weights: accuracies say nothing there and are
left out. The INT8 engines are trained for a few steps, so that they are what training makes. Writes the figures of all
results and prints them as a table.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [
    str(ROOT / "workflow_scripts"),
    str(ROOT / "tests/support"),
    str(ROOT / "tests/graph"),
    str(ROOT / "tests/bench"),
]
ENGINES = ("fp32.cpu", "bf16.cpu", "int8_qat.cpu", "fp32.ort")
STEPS, CLASSES = 2, 10
COLUMNS = ("model", "engine", "batch", "images/s", "median ms", "p99 ms", "stable", "engine MB", "build s", "peak MiB")


def checkout(folder, models, batches):
    """Write the tracked files and random weights to a folder; its config lists them as the dataset's own."""
    import torch
    import yaml
    from test_graph import trained_like

    from described import USUAL

    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["datasets"]["digits"]["weights"] = "weights/{model}.pth"
    config["precisions"]["int8_qat"].update(fallback="none", budget=100)
    config["precisions"]["int8_qat"]["qat"]["steps"] = STEPS
    for target in ("cpu", "ort"):
        config["targets"][target]["batches"] = batches
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "weights").mkdir()
    for name in models:
        network = trained_like({**USUAL, **config["models"][name]}, CLASSES)
        torch.save(network.state_dict(), folder / "weights" / f"{name}.pth")
    return config


def rows(folder, config, model, engine):
    """Yield what a result says of each batch, with the most memory that timing it took."""
    from memory import peak_mib

    result = json.loads((folder / f"results/{model}.{engine}.json").read_text())
    precision, target = engine.split(".")
    row = config["targets"][target]
    identity = json.loads((folder / f"results/targets/{target}.json").read_text())
    for entry in result["benchmark"]:
        timing = {"batches": [entry["batch"]], "threads": 0, "warmup_ms": 100, "duration_ms": 500, "iterations": 5}
        job = {"runtime": row["runtime"], "identity": json.dumps(identity), "recipe": timing}
        job.update(engine=folder / result["engine"]["path"], benchmark=folder / "again.json")
        yield {
            "model": model,
            "engine": engine,
            "layers": result["engine"]["precision_of_layers"],
            "bytes": result["engine"]["bytes"],
            "build_seconds": result["engine"]["build_seconds"],
            "peak_mib": peak_mib(sys.executable, "benchmark", job),
            **{key: entry[key] for key in ("batch", "images_per_second", "latency_ms", "stable")},
        }


def line(row):
    """Return a row of the table."""
    latency = row["latency_ms"]
    cells = [row["model"], row["engine"], row["batch"], f"{row['images_per_second']:.1f}", f"{latency['median']:.2f}"]
    cells += [f"{latency['p99']:.2f}", "yes" if row["stable"] else "no", f"{row['bytes'] / 1e6:.1f}"]
    return "| " + " | ".join(map(str, [*cells, f"{row['build_seconds']:.1f}", row["peak_mib"]])) + " |"


def main():
    import yaml

    published = [n for n, r in yaml.safe_load((ROOT / "config.yaml").read_text())["models"].items() if r.get("top1")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="*", default=published)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    args = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), []
        config = checkout(folder, args.models, args.batches)
        for model in args.models:
            wanted = [f"results/{model}.{engine}.json" for engine in ENGINES]
            subprocess.run([sys.executable, "-m", "snakemake", "--quiet", "all", "--", *wanted], cwd=folder)
            found += [row for engine in ENGINES for row in rows(folder, config, model, engine)]
            args.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
            print("\n".join(line(row) for row in found if row["model"] == model), flush=True)


if __name__ == "__main__":
    main()
