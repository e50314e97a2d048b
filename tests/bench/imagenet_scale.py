"""ImageNet at its size on this machine: what decoding and scoring cost beside what they cannot do without.

    python tests/bench/imagenet_images.py /tmp/jpegs --count 10000
    python tests/bench/imagenet_scale.py --images /tmp/jpegs --work /tmp/scale [decode score whole]

Both sides of a ratio take turns, round by round, in one run: a ratio is the median over rounds, of seconds and of the
processors' seconds, which other work on the machine disturbs less. `score` needs an engine for the target cpu or ort.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "workflow_scripts"
sys.path.insert(0, str(SCRIPTS))

GEOMETRY = {"size": 224, "crop": 0.9, "crop_mode": "center", "interpolation": "bicubic"}
NORMAL = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
SHORT = 248  # pixels of the shorter side after resizing
RUNTIMES = {"cpu": "openvino", "ort": "onnxruntime"}


def bare(paths):
    """Decode and resize, and nothing else: what no preprocessing with Pillow can do without."""
    from PIL import Image

    for path in paths:
        with Image.open(path) as image:
            scale = SHORT / min(image.size)
            image.convert("RGB").resize([round(side * scale) for side in image.size], Image.BICUBIC)


def in_processes(paths, workers):
    """Run the bare loop over shares of the paths, one a process."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=bare, args=(paths[number::workers],)) for number in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def used(work):
    """Return (seconds, processors' seconds with those of ended children) that work() took."""
    before, start = _processors(), time.perf_counter()
    work()
    return time.perf_counter() - start, _processors() - before


def _processors():
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def in_turns(rounds, ours, theirs):
    """Return theirs over ours in seconds and in processors' seconds; both are functions of a round's number."""
    ratios = {"seconds": [], "processor_seconds": []}
    for number in range(rounds):
        order = [ours, theirs] if number % 2 else [theirs, ours]
        taken = {side: side(number) for side in order}
        for place, name in enumerate(ratios):
            ratios[name].append(taken[theirs][place] / taken[ours][place])
    return {n: {"median": statistics.median(r), "least": min(r), "most": max(r)} for n, r in ratios.items()}


def bench_decode(args):
    """Our decoding into the cache, each image held to its SHA-256, against the bare loop."""
    from data import cache, source

    paths = [str(path) for path in sorted(Path(args.images).rglob("*.JPEG"), key=lambda path: path.name)][: args.limit]
    digests = dict(zip(paths, (hashlib.sha256(source.read(path)).hexdigest() for path in paths)))
    size, workers, speeds = len(paths) // args.rounds, args.workers, {"ours": [], "bare": []}

    def ours(number):
        part = paths[number * size :][:size]
        target = args.work / "part.u8"
        found = used(lambda: cache.write(target, part, GEOMETRY, workers, [digests[path] for path in part]))
        speeds["ours"].append(size / found[0])
        return found

    def theirs(number):
        found = used(lambda: in_processes(paths[number * size :][:size], workers))
        speeds["bare"].append(size / found[0])
        return found

    ratios = in_turns(args.rounds, ours, theirs)
    medians = {f"{name}_images_per_second": statistics.median(found) for name, found in speeds.items()}
    return {"images": size * args.rounds, "rounds": args.rounds, "workers": workers, **medians, "ratio": ratios}


def bench_score(args):
    """evaluate_engine's pass over the cache against the benchmark's own timing of the same engine and batch."""
    import runtimes
    from data import cache
    from measure import logits, timing

    session = runtimes.load(RUNTIMES[args.engine.split(".")[-2]]).load(args.engine)
    images = cache.read(args.cache)
    batch = session.batches[-1] if session.batches else logits.BATCH
    size = batch * (args.score // batch)
    noise = timing.images_for(session, batch)
    speeds = {"ours": [], "engine": []}
    logits.logits_of(session, "warm-up", images[:size], NORMAL)

    def ours(number):
        part = images[number * size % (len(images) - size) :][:size]
        found = used(lambda: logits.logits_of(session, "the cache", part, NORMAL))
        speeds["ours"].append(size / found[0])
        return found

    def theirs(number):
        queries = size // batch
        found = used(lambda: session.time(noise, timing.Loop(0, 0, queries - 2)))  # and two to warm up
        speeds["engine"].append(size / found[0])
        return found

    ratios = in_turns(args.rounds, ours, theirs)
    medians = {f"{name}_images_per_second": statistics.median(found) for name, found in speeds.items()}
    return {
        "engine": args.engine,
        "batch": batch,
        "images_a_round": size,
        "rounds": args.rounds,
        **medians,
        "ratio": ratios,
    }


def bench_whole(args):
    """The two commands as the workflow runs them, over all images: seconds and peak memory of all their processes."""
    row = {"path": str(args.images), "classes": args.classes, "splits": {"calib": 0, "select": 0}}
    index, target = args.work / "index.json", args.work / "val.u8"
    found = {"index": command(args, "index_dataset", *indexing(args.work, row))}
    model = args.work / "model.json"
    model.write_text(json.dumps(GEOMETRY))
    options = ["--index", index, "--model", model, "--split", "val", "--images", target]
    found["decode"] = command(args, "decode_split", *options)
    images = len(json.loads(index.read_text())["images"])
    for one in found.values():
        one["images_per_second"] = images / one["seconds"]
    return {"images": images, "index_bytes": index.stat().st_size, "cache_bytes": target.stat().st_size, **found}


def indexing(folder, row):
    outputs = ["--index", folder / "index.json", "--train-images", folder / "train.tsv", "--seen", folder / "seen.txt"]
    return ["--dataset", json.dumps(row), "--seed", 0, *outputs]


def command(args, script, *options):
    """Run a command of the workflow as `measured` does."""
    return measured([sys.executable, SCRIPTS / f"{script}.py", *options], ROOT)


def measured(line, folder):
    """Run a command line; return its seconds, and the most memory that its processes had at once."""
    import psutil

    start, peak = time.perf_counter(), 0
    process = psutil.Popen(list(map(str, line)), cwd=folder, env={**os.environ, "LEVIT_STORE": ""})
    while process.poll() is None:
        peak = max(peak, _memory(process))
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"error: {line} ended with status {process.returncode}")
    return {"seconds": time.perf_counter() - start, "peak_memory_mb": peak / 1e6}


def _memory(process):
    """Return the bytes of a process and its children in memory; what they share is divided among them (PSS)."""
    import psutil

    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["decode", "score", "whole"])
    parser.add_argument("--images", type=Path, default=Path("/tmp/jpegs"), help="folder that imagenet_images.py wrote")
    parser.add_argument("--work", type=Path, default=Path("/tmp/scale"), help="folder for what is made")
    parser.add_argument("--out", type=Path, help="JSON file of what was found")
    parser.add_argument("--engine", default=str(ROOT / "results/digits/engines/LeViT-128S.fp32.cpu.engine"))
    parser.add_argument("--cache", help="preprocessed images that `score` reads (default: those of `whole`)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--limit", type=int, default=10000, help="images of `decode`")
    parser.add_argument("--score", type=int, default=640, help="images a round of `score`")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    args.cache = args.cache or args.work / "val.u8"
    parts = {"decode": bench_decode, "score": bench_score, "whole": bench_whole}
    found = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for name in args.parts:
        found[name] = parts[name](args)
        print(json.dumps({name: found[name]}, indent=2), flush=True)
        if args.out:
            args.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
