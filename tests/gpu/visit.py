"""One visit to a GPU host: what it needs is made by one command here, done by one there, and written up by one here.

    python tests/gpu/visit.py stage DIR --results results/digits [--headers INCLUDE] [--more LeViT-256=net.onnx,net.pth]
    python3 tests/gpu/visit.py run DIR OUT --budget-seconds 540 [--gpus 0,1] [--only NAME,NAME] [--back FOLDER]
    python tests/gpu/visit.py tables OUT > docs/measurements/NAME.md

`stage` also packs DIR into DIR.parts/, pieces of 60 MiB; `run` unpacks them where DIR is not there. `run` takes the
steps of steps.py in their order, one at a time on each GPU, and starts none that does not fit into the budget. Steps
on several GPUs come last, alone, where --gpus names as many (`--gpus 0,1 --only parallel.2` runs one at once). Each
step's figures are a file of their own under OUT, and a step that is done is not repeated: call `run` again with the
same OUT until it says that nothing is left. OUT/visit.json has each step's status and seconds. --back gets
visit.tar.gz, every figure and log without engines, after each step. `run` needs the standard library alone, Python 3.8;
run it with the Python that has TensorRT, or name that one by --python.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import steps as table  # noqa: E402

FIGURES = (".json", ".log", ".txt")
LARGEST = 4 << 20  # bytes of a figure that comes back
BUNDLE = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH")  # of the Python that has TensorRT, and not of PyTorch's
SPARE = 5  # seconds of the budget for the last archive


class Visit:
    """The steps of a visit, and which of them are done."""

    def __init__(self, args, steps):
        self.args, self.out, self.waiting, self.kit = args, Path(args.out), steps, Path(args.dir) / "kit"
        self.end, self.lock = time.monotonic() + args.budget_seconds - SPARE, threading.Condition()
        self.running = set()
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "visit.json"
        self.done = json.loads(path.read_text()) if path.exists() else {}

    def run(self):
        """Take all steps that fit; return the names of those that are left."""
        self.waiting = [step for step in self.waiting if not self.is_done(step)]
        self.waiting.sort(key=lambda step: step.name in self.done)  # what failed or was cut off comes last
        gpus = self.args.gpus.split(",")
        several = [step for step in self.waiting if step.gpus > 1]
        self.waiting = [step for step in self.waiting if step.gpus == 1]
        threads = [threading.Thread(target=self.work, args=(gpu,)) for gpu in gpus]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left, self.waiting = self.waiting, [step for step in several if step.gpus <= len(gpus)]
        while step := self.next():
            self.waiting.remove(step)
            self.take(step, ",".join(gpus[: step.gpus]))
        return [step.name for step in left + self.waiting]

    def work(self, gpu):
        while True:
            with self.lock:
                step = self.next()
                while step is None and self.running:
                    self.lock.wait()
                    step = self.next()
                if step is None:
                    return
                self.waiting.remove(step)
                self.running.add(step.name)
            self.take(step, gpu)
            with self.lock:
                self.running.remove(step.name)
                self.lock.notify_all()

    def next(self):
        """Return the first waiting step whose needs are there and that fits into what is left, or None."""
        left = self.end - time.monotonic()
        ready = [step for step in self.waiting if all((self.out / path).exists() for path in step.needs)]
        return next((step for step in ready if step.seconds <= left), None)

    def is_done(self, step):
        went_well = self.done.get(step.name, {}).get("status", 0) == 0
        return went_well and all((self.out / path).exists() for path in step.made)

    def take(self, step, gpu):
        """Run a step's command; note its status and seconds."""
        begin = time.monotonic()
        with open(str(self.out / f"{step.name}.log"), "ab") as log:
            child = subprocess.Popen(
                [*self.python(step), *map(str, step.command)],
                cwd=str(step.folder or table.ROOT),
                env=self.environment(step, gpu),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                status = child.wait(timeout=max(self.end - begin, 1))
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                status = child.wait()
        self.note(step.name, {"status": status, "seconds": round(time.monotonic() - begin, 1), "gpu": gpu})

    def python(self, step):
        name = {"tensorrt": self.args.python, "torch": self.args.torch_python}.get(step.python)
        return [name] if name else []

    def environment(self, step, gpu):
        plugin = self.out / "plugin.so"
        more = {
            "CUDA_VISIBLE_DEVICES": gpu,
            "LEVIT_TIMING_CACHES": str((self.out / "timing").resolve()),
            "TORCHINDUCTOR_CACHE_DIR": str((self.out / "inductor").resolve()),
            "TENSORRT_INCLUDE": str((Path(self.args.dir) / "include").resolve()),
        }
        if plugin.exists() and plugin.stat().st_size:
            more["LEVIT_PLUGIN"] = str(plugin.resolve())
        left = {key: value for key, value in os.environ.items() if step.python == "tensorrt" or key not in BUNDLE}
        return {**left, **more}

    def note(self, name, value):
        with self.lock:
            self.done[name] = value
            beside = self.out / "visit.json.partial"
            beside.write_text(json.dumps(self.done, indent=1))
            os.replace(str(beside), str(self.out / "visit.json"))
            print(f"{self.end - time.monotonic() + SPARE:6.0f} s left, {name}: {value}", flush=True)
            self.give()

    def give(self):
        """Write what comes back: figures and logs, and the kit's outputs in pieces of 15 MiB."""
        if not self.args.back:
            return
        back = Path(self.args.back)
        back.mkdir(parents=True, exist_ok=True)
        with tarfile.open(str(back / "visit.partial"), "w:gz") as archive:
            for folder, under in ((self.out, ""), (self.kit / "results", "kit/results/")):
                for path in filter(is_figure, sorted(folder.rglob("*"))):
                    archive.add(str(path), under + str(path.relative_to(folder)))
        os.replace(str(back / "visit.partial"), str(back / "visit.tar.gz"))
        outputs = self.kit / "outputs.tar"
        if "kit" in self.done and self.done["kit"]["status"] == 0:
            subprocess.run(["split", "-b", "15M", "-d", str(outputs), str(back / "outputs.tar.")], check=True)


def is_figure(path):
    return path.suffix in FIGURES and path.is_file() and path.stat().st_size <= LARGEST


def unpack(folder):
    """Unpack a staged folder's pieces where it is not there yet; a folder that is whole has the file `whole`."""
    pieces = sorted(Path(f"{folder}.parts").glob("part.*"))
    if (folder / "whole").exists():
        return
    if not pieces:
        sys.exit(f"error: there is neither {folder} nor {folder}.parts: python tests/gpu/visit.py stage {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    joined = "".join(f" '{piece}'" for piece in pieces)
    subprocess.run(["bash", "-c", f"set -o pipefail; cat{joined} | gzip -dc | tar -xf - -C '{folder}'"], check=True)


def run(args):
    unpack(Path(args.dir))
    steps = table.steps(Path(args.dir).resolve(), Path(args.out).resolve())
    if args.only:
        wanted = args.only.split(",")
        steps = [step for step in steps if any(step.name.startswith(name) for name in wanted)]
    left = Visit(args, steps).run()
    print(f"left: {', '.join(left) or 'nothing'}", flush=True)


def stage(args):
    import stage as staging

    if args.dir.exists():
        shutil.rmtree(str(args.dir))
    staging.write(args.dir, args.results, args.headers, args.more)
    (args.dir / "whole").write_text("")
    parts = Path(f"{args.dir}.parts")
    parts.mkdir(exist_ok=True)
    packed = f"set -o pipefail; tar -cf - -C '{args.dir}' . | gzip -1"
    subprocess.run(["bash", "-c", f"{packed} | split -b 60M -d -a 2 - '{parts}/part.'"], check=True)
    sizes = [path.stat().st_size for path in sorted(parts.iterdir())]
    print(f"{args.dir}: {len(sizes)} pieces, {sum(sizes) / 1e6:.1f} MB")


def tables(args):
    import write_tables

    print(write_tables.page(args.out))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("stage")
    one.add_argument("dir", type=Path, help="folder to write; it is replaced")
    one.add_argument("--results", type=Path, default=Path("results/digits"), help="a built results/{dataset}")
    one.add_argument("--headers", type=Path, help="TensorRT's include/, of the release there")
    one.add_argument("--more", nargs="*", default=[], help="MODEL=ONNX,CHECKPOINT of other trained models")
    two = kinds.add_parser("run")
    two.add_argument("dir", help="what `stage` wrote")
    two.add_argument("out", help="folder of the figures")
    two.add_argument("--budget-seconds", type=float, required=True)
    two.add_argument("--gpus", default="0")
    two.add_argument("--only", default="", help="names of steps, or how they begin")
    two.add_argument("--back", help="folder that gets visit.tar.gz")
    two.add_argument("--python", default=sys.executable, help="with TensorRT")
    two.add_argument("--torch-python", default="python3", help="with PyTorch and timm")
    three = kinds.add_parser("tables")
    three.add_argument("out", type=Path)
    args = parser.parse_args()
    {"stage": stage, "run": run, "tables": tables}[args.kind](args)


if __name__ == "__main__":
    main()
