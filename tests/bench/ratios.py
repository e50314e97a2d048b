"""The ratios that this project promises, both sides measured in one run: `make bench`.

Speed: contenders run in processes of their own and take turns, round by round; a ratio is the median over rounds,
its range the smallest and largest round. Needs the results of LeViT-128S in results/ (make bench makes them).
"""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import turns

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

MODEL, DATASET = "LeViT-128S", "digits"
FOLDER = ROOT / "results" / DATASET
SNAKEMAKE = [sys.executable, "-m", "snakemake"]
CONTENDERS = ("int8_qat.cpu", "int8_ptq.cpu", "bf16.cpu", "fp32.cpu", "int8_qat.ort", "fp32.ort", "PyTorch eager")
PROMISES = [  # faster, slower, batch, promised ratio or None
    ("int8_qat.cpu", "fp32.cpu", 1, 1.7),
    ("int8_qat.cpu", "PyTorch eager", 1, 3.5),
    ("fp32.cpu", "fp32.ort", 1, 1.0),
    ("int8_qat.cpu", "bf16.cpu", 1, 1.0),
    ("int8_qat.ort", "fp32.ort", 1, 1.3),
    ("int8_ptq.cpu", "fp32.cpu", 1, None),
    ("int8_qat.cpu", "fp32.cpu", 16, 1.8),
    ("int8_qat.cpu", "PyTorch eager", 16, None),
    ("int8_qat.ort", "fp32.ort", 16, 1.3),
    ("fp32.cpu", "fp32.ort", 16, None),
]
ONE_RULE = 'rule one:\n    output:\n        "x"\n    shell:\n        "touch {output}"\n'
MANY_JOBS = """rule all:
    input: expand("{{i}}.x", i=range({count}))
rule one:
    output: "{{i}}.x"
    shell: "touch {{output}}"
"""
EVERY_MODEL = ["-n", "--config", "results={models: all, precisions: all, targets: all}"]
LOST = {"int8_ptq": 3, "int8_qat": 1}  # images net that each may lose on the 360 digits


def timer(contender):
    """Return a function (batch, seconds) -> median milliseconds of a query."""
    import yaml

    if contender == "PyTorch eager":
        import torch

        from model import checkpoint, zoo

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        row = {"size": 224, **yaml.safe_load((ROOT / "config.yaml").read_text())["models"][MODEL]}
        model = checkpoint.load_into(zoo.create(row, 10), FOLDER / "checkpoints" / f"{MODEL}.pth")

        def eager(batch, loop):
            images = torch.randn(batch, 3, row["size"], row["size"])
            with torch.inference_mode():
                return loop.run(lambda: model(images))[0]

        return turns.medians(eager)

    import runtimes
    from measure import timing

    engine = FOLDER / "engines" / f"{MODEL}.{contender}.engine"
    runtime = {"cpu": "openvino", "ort": "onnxruntime"}[contender.rsplit(".", 1)[1]]
    session = runtimes.load(runtime).load(str(engine))
    return turns.medians(lambda batch, loop: session.time(timing.images_for(session, batch), loop).latency)


def report(name, measured, promised, better=max):
    """Print a figure in one line, beside what is promised of it."""
    if promised is None:
        note = ""
    else:
        kept = better(measured, promised) == measured
        note = f"   promised {'>=' if better is max else '<='} {promised:g}: {'kept' if kept else 'NOT KEPT'}"
    print(f"  {name:<58} {measured:8.2f}{note}", flush=True)


def bench_speed(rounds, seconds):
    print(f"\nSpeed, {rounds} rounds of {seconds:g} s each, {len(os.sched_getaffinity(0))} cores: ratios of medians")
    wanted = sorted({(c, batch) for fast, slow, batch, _ in PROMISES for c in (fast, slow)})
    found = turns.speeds(timer, CONTENDERS, wanted, rounds, seconds)
    for (contender, batch), times in found.items():
        print(f"  {contender + f', batch {batch}':<58} {statistics.median(times):8.3f} ms")
    for fast, slow, batch, promised in PROMISES:
        ratios = [b / a for a, b in zip(found[fast, batch], found[slow, batch])]
        label = f"{fast} against {slow}, batch {batch} ({min(ratios):.2f} to {max(ratios):.2f})"
        report(label, statistics.median(ratios), promised)


def bench_accuracy():
    from measure import accuracy

    print("\nImages lost net against PyTorch FP32, same images (95 % interval)")
    for precision, allowed in LOST.items():
        scores = json.loads((FOLDER / "accuracy" / f"{MODEL}.{precision}.cpu.json").read_text())
        reference = json.loads((FOLDER / "accuracy" / f"{MODEL}.torch.json").read_text())
        count = scores["num_images"]
        found = accuracy.paired(*(accuracy.unpack(s["correct"], count) for s in (reference, scores)))
        low, high = found["interval"]
        top1 = f"top-1 {reference['top1']:.2f} -> {scores['top1']:.2f}"
        label = f"{precision}.cpu of {count}: {top1} ({low:.1f} to {high:.1f})"
        report(label, found["net_lost"], allowed, min)


def _seconds(commands, runs):
    """Return the median processor seconds of each (command, folder); they take turns, and the first does not count."""
    taken = [[] for _ in commands]
    for _ in range(runs + 1):
        for seconds, (command, folder) in zip(taken, commands):
            before = _processor_seconds()
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            seconds.append(_processor_seconds() - before)
    return [statistics.median(seconds[1:]) for seconds in taken]


def _processor_seconds():
    """Return what the children that have ended computed: other work changes it less than their time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def bench_dry_runs():
    import yaml

    from configuration import checks

    print("\nDry runs, median processor seconds of 5, against a Snakefile of one rule")
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    tables = checks.load(config, ROOT / "rules" / "schemas" / "config.schema.yaml")
    everything = [f"results/{m}.{p}.{t}.json" for m, p, t in tables.valid(tables.names)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "Snakefile").write_text(ONE_RULE)
        copy = Path(folder, "copy")
        _copy_project(copy)
        planned = subprocess.run([*SNAKEMAKE, "-n", *everything], cwd=copy, capture_output=True, text=True, check=True)
        jobs = re.findall(r"^(\d+) jobs would run", planned.stdout, re.MULTILINE)[0]
        as_many = Path(folder, "as_many")
        as_many.mkdir()
        Path(as_many, "Snakefile").write_text(MANY_JOBS.format(count=int(jobs) - 1))
        commands = [["-n", "--cores", "1"], ["-n", everything[0]], EVERY_MODEL, ["-n", *everything]]
        commands.append(["-n", "--cores", "1"])
        folders = [folder, copy, copy, copy, as_many]
        base, one, models, whole, many = _seconds([(SNAKEMAKE + c, f) for c, f in zip(commands, folders)], 5)
    print(f"  one rule {base:.2f} s, one result {one:.2f} s, every model {models:.2f} s", end="")
    print(f", everything ({jobs} jobs) {whole:.2f} s, one rule with as many jobs {many:.2f} s")
    report("one result", one / base, 1.2, min)
    report("every model, for the targets within reach", models / base, 2.0, min)
    report(f"everything in config.yaml, {jobs} jobs", whole / base, None)
    report("everything, against one rule with as many jobs", whole / many, None)


def _copy_project(folder):
    folder.mkdir()
    for name in ("Snakefile", "config.yaml", "rules", "profiles", "plugins", "workflow_scripts"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)


def bench_demo():
    import psutil

    print("\nThe demo from empty results and an empty store")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        _copy_project(copy)
        start, peak = time.perf_counter(), 0
        command = [*SNAKEMAKE, f"results/{MODEL}.int8_qat.cpu.json"]
        process = psutil.Popen(command, cwd=copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            peak = max(peak, _resident(process))
            time.sleep(0.2)
        if process.returncode:
            sys.exit(f"error: the demo ended with status {process.returncode}")
        report("minutes", (time.perf_counter() - start) / 60, 8.0, min)
        report("peak memory of all its processes, GB", peak / 1e9, 4.0, min)


def _resident(process):
    import psutil

    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            memory = one.memory_full_info()
            total += memory.uss
        except psutil.Error:
            continue
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="speed, accuracy, dry-runs, demo (all of them by default)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contender in each round")
    args = parser.parse_args()
    parts = {
        "speed": lambda: bench_speed(args.rounds, args.seconds),
        "accuracy": bench_accuracy,
        "dry-runs": bench_dry_runs,
        "demo": bench_demo,
    }
    for part in args.parts or parts:
        parts[part]()


if __name__ == "__main__":
    main()
