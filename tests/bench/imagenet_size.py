"""ImageNet's size in the workflow: seconds and memory of what grows with the number of images.

    python tests/bench/imagenet_images.py /tmp/imagenet --count 10000 --times 5 --train 1281167
    python tests/bench/imagenet_size.py --images /tmp/imagenet --work /tmp/size --out size.json \\
        [dry index turns change list tar decode score]

The parts run in this order in a copy of the workflow below `--work`. Memory is the most that all processes of a part
had at once; what they share is divided among them (PSS). `tar` makes an archive of val as large as val itself. `decode`
and `score` take LeViT-tiny, whose images are small: what a larger network takes follows from its size and speed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from imagenet_images import SPLITS
from imagenet_scale import GEOMETRY, ROOT, SCRIPTS, in_turns, indexing, measured, used

MODEL, WORKERS, READS = "LeViT-tiny", 4, 20000
DATA = "results/imagenet/data"
WEIGHTS = """
import sys, torch, yaml
sys.path.insert(0, sys.argv[1])
from model import zoo
torch.manual_seed(0)
row = yaml.safe_load(open("config.yaml"))["models"][sys.argv[2]]
torch.save(zoo.create(row, int(sys.argv[3])).state_dict(), "weights.pth")
"""
DEFAULT = ["dry", "index", "turns", "change", "list", "tar", "decode", "score"]
PARTS = ("Snakefile", "config.yaml", "rules", "profiles", "plugins", "workflow_scripts")


class Bench:
    """A copy of the workflow whose active dataset is the folder of images."""

    def __init__(self, images, work, classes, shards):
        self.images, self.work, self.folder = images.resolve(), work.resolve(), work.resolve() / "workflow"
        self.row = {"path": str(self.images), "classes": classes, "splits": SPLITS, "weights": "weights.pth"}
        if not self.folder.exists():
            self._copy(classes)
        override = {"dataset": "imagenet", "datasets": {"imagenet": {**self.row, "shards": shards}}, "store": ""}
        (self.folder / "imagenet.yaml").write_text(json.dumps(override))

    def _copy(self, classes):
        self.folder.mkdir(parents=True)
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
            copy(ROOT / part, self.folder / part)
        line = [sys.executable, "-c", WEIGHTS, SCRIPTS, MODEL, classes]
        subprocess.run(list(map(str, line)), cwd=self.folder, check=True)

    def line(self, *arguments):
        return [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "imagenet.yaml", *arguments]

    def run(self, *targets):
        """Let Snakemake make files; return the seconds and the memory of all processes."""
        return measured(self.line("--quiet", "all", "--", *targets), self.folder)

    def plan(self, target):
        """Return the seconds of a dry run, and its last line."""
        start, line = time.perf_counter(), self.line("-n", "--", target)
        done = subprocess.run(line, cwd=self.folder, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "said": (done.stderr + done.stdout).splitlines()[-1]}

    def dry(self):
        """Dry runs of a result: the first reads the entries of all folders, later ones the folders' times."""
        result = f"results/{MODEL}.fp32.cpu.json"
        shutil.rmtree(self.folder / ".cache", ignore_errors=True)
        return {"first": self.plan(result), "second": self.plan(result), "third": self.plan(result)}

    def index(self):
        """The index by its rule, and a dry run when it exists."""
        found = self.run(f"{DATA}/index.json")
        sizes = {name: (self.folder / DATA / name).stat().st_size for name in ("index.json", "train.tsv")}
        return {**found, "bytes": sizes, "dry_run": self.plan(f"{DATA}/index.json")}

    def turns(self, rounds=5):
        """Dry runs of a result in turns with those of digits; the index is there."""
        result, digits = f"results/{MODEL}.fp32.cpu.json", [sys.executable, "-m", "snakemake", "--cores", "2"]
        lines = {"imagenet": self.line("-n", "--", result), "digits": [*digits, "-n", "--", result]}
        found = {f"{name}_seconds_and_those_of_processors": [] for name in lines}
        for _ in range(rounds):
            for line, taken in zip(lines.values(), found.values(), strict=True):
                taken.append(
                    used(lambda line=line: subprocess.run(line, cwd=self.folder, capture_output=True, check=True))
                )
        return found

    def change(self):
        """Dry runs after a change two levels below a class folder, and when it is undone."""
        deep, index = self.images / "train/n00000000/year/month", f"{DATA}/index.json"
        before = os.stat(deep.parents[1]).st_mtime_ns
        deep.mkdir(parents=True)
        found = {"changed": self.plan(index)}
        shutil.rmtree(deep.parent)
        os.utime(deep.parents[1], ns=(before, before))
        return {**found, "undone": self.plan(index)}

    def list(self):
        """What a training holds of the images: its list, in a process and in those that it forks to decode."""
        start = time.perf_counter()
        found = measured([sys.executable, __file__, "--load", str(self.folder / DATA / "index.json")], self.folder)
        return {**found, "workers": WORKERS, "reads_a_worker": READS, "seconds": time.perf_counter() - start}

    def tar(self):
        """Val from one tar: its index, and decoding some of it in place and from the folder, in turns."""
        archive = self.work / "val.tar"
        with tarfile.open(archive, "w") as stream:
            stream.add(self.images / "val", "val")
        row = {**self.row, "val": str(archive), "splits": {"calib": 0, "select": 0}}
        row["path"] = str(self.work / "only")
        (self.work / "only").mkdir(exist_ok=True)
        line = [sys.executable, SCRIPTS / "index_dataset.py", *indexing(self.work, row)]
        found = {**measured(line, self.work), "bytes": archive.stat().st_size, "decode": self._turns()}
        archive.unlink()
        return found

    def _turns(self):
        from data import cache, index

        path = self.work / "index.json"
        members = random.Random(0).sample(list(index.files(index.read(path), path, "val")), 4000)
        sources = {"tar": members, "folder": [str(self.images / member.path) for member in members]}

        def decode(name):
            return lambda number: used(
                lambda: cache.write(self.work / "part.u8", sources[name][number * 500 :][:500], GEOMETRY, 0)
            )

        return in_turns(8, decode("tar"), decode("folder"))

    def decode(self):
        """All of val by shards; the run is killed once on the way, and goes on."""
        target = f"{DATA}/{MODEL}.val.u8"
        line = self.line("--quiet", "all", "--", target)
        process = subprocess.Popen(line, cwd=self.folder, start_new_session=True, stderr=subprocess.DEVNULL)
        time.sleep(60)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        found = self.run(target)
        logs = sorted((self.folder / "results/logs/imagenet").glob("decode_shard.*"))
        said = [line for log in logs for line in log.read_text().splitlines() if "images/s" in line]
        return {**found, "killed_after_seconds": 60, "shards": said, "bytes": (self.folder / target).stat().st_size}

    def score(self):
        """From the preprocessed images to the accuracy of PyTorch and of an engine; what they need is made before."""
        engine, folder = f"engines/{MODEL}.fp32.cpu.engine", "results/imagenet"
        self.run(f"{folder}/{engine}")
        accuracies = [f"{folder}/accuracy/{MODEL}.{name}" for name in ("torch.json", "fp32.cpu.json")]
        found = {path: self.run(path) for path in accuracies}
        scored = json.loads((self.folder / accuracies[1]).read_text())
        logits = (self.folder / accuracies[0].replace(".json", ".npy")).stat().st_size
        return {**found, "logits_bytes": logits, "images": scored["num_images"], "top1": scored["top1"]}


def load(path):
    """Hold the training list as `train` does, and read some of it in forked processes; stay until all have."""
    from data import augment, index

    listing = index.read(path)
    images = [augment.TrainImages(listing, path, {}, recipe, 0) for recipe in ({}, None)]
    forked = []
    for worker in range(WORKERS):
        pid = os.fork()
        if not pid:
            for item in random.Random(worker).sample(range(len(images[0])), READS):
                assert images[0].files[item] and images[0].reader.stamps[item]
            time.sleep(3)
            os._exit(0)
        forked.append(pid)
    sys.exit(any(os.waitpid(pid, 0)[1] for pid in forked))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=DEFAULT)
    parser.add_argument("--images", type=Path, default=Path("/tmp/imagenet"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/size"))
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--out", type=Path, help="JSON file of what was found")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        load(args.load)
    bench = Bench(args.images, args.work, args.classes, args.shards)
    found = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    for name in args.parts:
        found[name] = getattr(bench, name)()
        print(json.dumps({name: found[name]}, indent=2), flush=True)
        if args.out:
            args.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
