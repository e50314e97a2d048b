"""How fast training images are loaded: generated JPEGs from files, and the same images from memory.

    python tests/bench/loading.py [--images 400] [--workers 0 1 2] [--rounds 3] [--seconds 5] [--size 224]
    python tests/bench/loading.py --train --device cuda --images 4000 --batch 256 [--compute bf16]     (on a GPU host)
        [--gpu-decoder 1/2 1/1]     `decoder: gpu` with those shares of the images
        [--processes 2]     one for each GPU, which share the batch; each has a micro-batch
        [--exchange]     and the same with BatchNorm over the whole batch

Images are like ImageNet's (imagenet_images.py); --photo makes them 3000 x 2000. Each case loads in turns with the
others. --train takes training steps of --model on the loaded batches, and compares three sources: files, memory, and a
batch that is on the device already, which is as fast as loading can be. Its loading processes are the workflow's own
number, and then those of --workers.
"""

import argparse
import faulthandler
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import imagenet_images
import torch
import torch.distributed as dist
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

from core.files import write_json  # noqa: E402
from data import augment, index, indexing, processes  # noqa: E402
from model import context, gpu_decoder, parallel, synced_batchnorm, training, zoo  # noqa: E402
from model.trainer import Trainer  # noqa: E402

CLASSES, PROMISED = 10, 0.9  # of the speed with images in memory, on a GPU
FIRST, SAMPLE = 8, 0.2  # batches before a timing; seconds between samples of a GPU's utilization
PATIENCE = 60  # seconds until each process tells what it does
REPEATED = "on the device already"
EXCHANGED = f"{REPEATED}, BatchNorm over all"
ROW = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "timm": "levit_128s"}
RECIPE = {
    "epochs": 1, "batch": 64, "learning_rate": 1e-4, "weight_decay": 0.025, "warmup": 0.1, "clip": 1.0,
    "crop_scale": [0.08, 1.0], "crop_ratio": [0.75, 1.33], "flip": 0.5,
}  # fmt: skip


def write(task):
    number, path, photo = task
    if photo:
        imagenet_images.jpeg(number)
        picture = Image.fromarray(imagenet_images._made[number % imagenet_images.PICTURES])
        picture.resize((3000, 2000), Image.BICUBIC).save(path, "JPEG", quality=92)
    else:
        Path(path).write_bytes(imagenet_images.jpeg(number))
    return os.path.getsize(path)


def made(folder, count, photo):
    """Write the images and their index; return the listing and the index's path."""
    for label in range(CLASSES):
        (folder / f"images/{label}").mkdir(parents=True)
    tasks = [(n, str(folder / f"images/{n % CLASSES}/{n}.jpg"), photo) for n in range(count)]
    sizes = list(processes.imap(write, tasks, "write JPEGs", "image"))
    row = {"classes": CLASSES, "splits": {"calib": 10, "select": 10, "val": 10}}
    listing, lines = indexing.build(str(folder / "images"), row, 0, hash_all=True)
    (folder / "train.tsv").write_bytes(lines)
    write_json(folder / "index.json", dict(listing, root="images"))
    print(f"{count} JPEGs of {statistics.mean(sizes) / 1000:.0f} kB on average, {len(os.sched_getaffinity(0))} cores")
    return index.read(folder / "index.json"), folder / "index.json"


def images_of(found, args, in_memory, **more):
    listing, path = found
    geometry = {"size": args.size, "interpolation": "bicubic"}
    images = augment.TrainImages(listing, path, geometry, {**RECIPE, **more}, 0)
    images.in_memory = in_memory
    return images


def draws(images, args):
    """Yield Draws of this process's share of batches, epoch after epoch."""
    for epoch in itertools.count():
        order = augment.order(len(images), 0, epoch)
        whole = order[: len(order) // args.batch * args.batch]
        yield from augment.shares(whole, args.batch, epoch, args.size, args.rank, args.processes)


def speed(batches, args):
    """Return what a timing of args.each(batch) says, with images a second of all processes, and else of this one.

    What was loaded before is used up first.
    """
    for batch in itertools.islice(batches, args.first):
        last = args.each(batch)
    finish(last)
    begin = time.monotonic()
    for batch in itertools.islice(batches, FIRST):
        last = args.each(batch)
    finish(last)
    steps = agreed(args.seconds / max(time.monotonic() - begin, 1e-3) * FIRST, args.processes)
    waits, start, own, used = [], time.monotonic(), time.process_time(), Utilization()
    with used:
        for batch in timed(itertools.islice(batches, steps), waits):
            last = args.each(batch)
        finish(last)
    count, spent, own = args.batch // args.processes * steps, time.monotonic() - start, time.process_time() - own
    return {
        "images_per_s": count * args.processes / spent,
        "own_ms": 1000 * own / count,  # of processors, by all threads
        "wait_ms": 1000 * sum(waits) / count,  # for the next batch
        "gpu_percent": used.median(),
    }


def timed(batches, waits):
    """Yield batches; append the seconds until each was there."""
    while True:
        begin = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            return
        waits.append(time.monotonic() - begin)
        yield batch


def finish(last):
    """Wait for what a GPU has to do."""
    if last is not None and last.is_cuda:
        torch.cuda.synchronize()


def agreed(steps, processes):
    """Return the least of all processes' numbers of steps: each of them takes as many."""
    least = torch.tensor(int(steps))
    if processes > 1:
        least = least.cuda() if torch.cuda.is_available() else least
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return max(2, int(least))


class Utilization:
    """Percent of the time in which this process's GPU ran a kernel, sampled within the context."""

    def __init__(self):
        self.values, self.done, self.thread = [], threading.Event(), threading.Thread(target=self._sample)

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *error):
        self.done.set()
        self.thread.join()

    def _sample(self):
        while torch.cuda.is_available() and not self.done.wait(SAMPLE):
            self.values.append(torch.cuda.utilization())

    def median(self):
        return statistics.median(self.values) if self.values else None


def in_turns(cases, args):
    """Print each case's images a second, the median over rounds, and its ratio to the first one's; write the rounds."""
    rows = {}
    for _ in range(args.rounds):
        for name, batches in cases.items():
            with synced_batchnorm.synced(1 if name == EXCHANGED else args.processes, args.processes):
                found = speed(batches, args)
            print(f"process {args.rank}, {name}: {found['images_per_s']:.0f} images/s", flush=True)
            for key, value in found.items():
                rows.setdefault(key, {}).setdefault(name, []).append(value)
        if args.json and not args.rank:
            write_json(args.json, {**rows, "cores": len(os.sched_getaffinity(0)), "arguments": words(args)})
    if args.rank:
        return
    speeds, base = rows["images_per_s"], None
    for name, values in speeds.items():
        middle, ends = statistics.median(values), f"{min(values):.0f} to {max(values):.0f}"
        base = base or middle
        own = f"{statistics.median(rows['own_ms'][name]):6.2f} processor ms an image here"
        own += f", {statistics.median(rows['wait_ms'][name]):.2f} ms of waiting, GPU {rows['gpu_percent'][name]} %"
        print(f"  {name:<42} {middle:8.1f} images/s ({ends})  {middle / base:5.2f}x  {own}", flush=True)


def words(args):
    return {name: str(value) for name, value in vars(args).items() if name not in ("each", "json")}


def loaded(images, args, workers=None):
    return training.batches(images, draws(images, args), ROW, args.device, workers)


def repeated(images, args):
    batch = next(loaded(images, args, 0))
    return itertools.repeat(batch)


def stepper(args, images):
    """Return a function that takes a training step on a batch, and returns the last loss that is known."""
    torch.manual_seed(0)
    row = {**ROW, "timm": args.model.lower().replace("levit-", "levit_"), "size": args.size}
    recipe = {**RECIPE, "batch": args.batch, **({"compute": args.compute} if args.compute else {})}
    trainer = Trainer(zoo.create(row, CLASSES).to(args.device), images, recipe, row)
    trainer.begin(0, 0)
    if args.processes > 1:
        parallel.average_gradients(trainer.optimizer)

    def step(batch):
        trainer.step(*batch, 0)
        return batch[1]

    return step


def sources(args, found):
    """Return {name: batches} of what a training reads, loading."""
    kept, files = (images_of(found, args, in_memory) for in_memory in (True, False))
    kept.decode()
    cases = {"in memory": loaded(kept, args), "JPEG files": loaded(files, args)}
    for share in args.gpu_decoder or ():
        gpu_decoder.SHARE = share
        name = f"JPEG files, {share[0]}/{share[1]} by the GPU"
        cases[name] = loaded(images_of(found, args, False, decoder="gpu"), args)
    return {**cases, **{f"JPEG files, {n} workers": loaded(files, args, n) for n in args.workers or ()}}


def train(args, found):
    """Time training steps in one of the processes."""
    faulthandler.dump_traceback_later(PATIENCE, repeat=True)
    with parallel.group(args.device, 0) as (args.rank, args.processes, args.device):
        cases = {} if args.no_loading else sources(args, found)
        args.first = FIRST + 2 * torch.get_num_threads() if cases else FIRST
        images = images_of(found, args, True)
        parallel.connect(args.processes, args.device)
        args.each = stepper(args, images)
        again = {name: repeated(images, args) for name in (REPEATED, EXCHANGED)[: 1 + args.exchange]}
        in_turns({**cases, **again}, args)
        for batches in cases.values():
            batches.close()
    faulthandler.cancel_dump_traceback_later()


def share(text):
    """Return (images of the GPU, images) of a text such as 1/2."""
    some, every = map(int, text.split("/"))
    return some, every


def load(args, found):
    """Time loading alone."""
    kept, files = (images_of(found, args, in_memory) for in_memory in (True, False))
    kept.decode()
    args.each, args.first = lambda batch: None, FIRST
    workers = args.workers or (0, 1, 2)
    cases = {f"in memory, {n} workers": loaded(kept, args, n) for n in workers}
    in_turns({**cases, **{f"JPEG files, {n} workers": loaded(files, args, n) for n in workers}}, args)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--photo", action="store_true")
    parser.add_argument("--workers", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--model", default="LeViT-128S")
    parser.add_argument("--processes", type=int, default=1, help="that train, one for each GPU")
    parser.add_argument("--no-loading", action="store_true", help="time training on a batch on the device alone")
    parser.add_argument("--gpu-decoder", nargs="+", type=share, help="shares of `decoder: gpu` to compare, such as 1/2")
    parser.add_argument("--exchange", action="store_true", help="compare BatchNorm over all processes' images as well")
    parser.add_argument("--compute", choices=context.DTYPES)
    parser.add_argument("--json", help="file that gets the images a second of each round")
    parser.add_argument("--device", type=torch.device, default="cpu")
    args = parser.parse_args()
    args.rank = 0
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as name:
        found = made(Path(name), args.images, args.photo)
        if not args.train:
            load(args, found)
            return
        print(f"training {args.model}: {args.processes} x {args.device}, batch {args.batch}; promised: {PROMISED:g}x")
        if args.processes > 1:
            parallel.launch(train, args.processes, "spawn", args, found)
        else:
            train(args, found)


if __name__ == "__main__":
    main()
