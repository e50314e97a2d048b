"""Train on generated JPEG files on one GPU or several by the workflow's own command, and time the epochs.

python3 tests/gpu/scaling.py STAGED OUT.json cpu|cuda PROCESSES [--images 20000] [--model LeViT-256] [--batch 1024]

The first epoch is not counted; OUT.json has the images a second of each later one, and the utilization of the GPUs.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import parallel
import yaml

ROOT = parallel.ROOT
sys.path.insert(0, str(ROOT / "tests/bench"))

import loading  # noqa: E402


def epochs(made, child):
    """Return the seconds at which a training's epochs end: it saves its state then."""
    path, seen, times = Path(f"{made}.resume"), 0, [time.monotonic()]
    while child.poll() is None:
        now = path.stat().st_mtime_ns if path.exists() else seen
        if now != seen:
            times.append(time.monotonic())
        seen = now
        time.sleep(0.02)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("staged", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("device")
    parser.add_argument("processes", type=int)
    for name, value in (("--images", 20000), ("--batch", 1024), ("--epochs", 4)):
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--model", default="LeViT-256")
    args = parser.parse_args()
    row = json.loads((args.staged / "models.json").read_text())["LeViT-128S"]
    network = json.loads((args.staged / row["model"]).read_text())
    network["timm"] = args.model.lower().replace("levit-", "levit_")
    training = yaml.safe_load((ROOT / "config.yaml").read_text())["datasets"]["digits"]["training"]
    training = {**training, "epochs": args.epochs, "small_epochs": 0, "batch": args.batch, "compute": "bf16"}
    with tempfile.TemporaryDirectory() as name:
        folder, made, samples, done = Path(name), Path(name) / "net.pth", [], threading.Event()
        _, index = loading.made(folder, args.images, False)
        (folder / "model.json").write_text(json.dumps(network))
        options = {"model": folder / "model.json", "index": index, "classes": loading.CLASSES, "seed": 0}
        options.update(training=json.dumps(training), device=args.device, processes=args.processes, checkpoint=made)
        words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        child = subprocess.Popen([sys.executable, str(ROOT / "workflow_scripts/train.py"), *words])
        threading.Thread(target=parallel.sample, args=(samples, done), daemon=True).start()
        ends = epochs(made, child)
        done.set()
    speeds = [round(args.images / (end - begin)) for begin, end in zip(ends[1:], ends[2:])]
    counted = samples[int(ends[1] - ends[0]) :] if len(ends) > 1 else []  # one a second
    busy = [round(statistics.median(values)) for values in zip(*counted)]
    found = {key: getattr(args, key) for key in ("device", "processes", "images", "batch", "model")}
    found.update(images_per_s=speeds, gpu_percent=busy, status=child.returncode)
    args.out.write_text(json.dumps(found, indent=1))
    print(found)
    sys.exit(child.returncode)


if __name__ == "__main__":
    main()
