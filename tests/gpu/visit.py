"""One visit to a GPU host: what it needs is made by one command here, done by one there, and written up by one here.

    python tests/gpu/visit.py stage DIR --results results/digits [--headers INCLUDE] [--more LeViT-256=net.onnx,net.pth]
    python tests/gpu/visit.py plan DIR OUT --budget-seconds 540 [--gpus 0,1] [--only NAME,NAME]
    python3 tests/gpu/visit.py run DIR OUT --budget-seconds 540 [--gpus 0,1] [--only NAME,NAME] [--back FOLDER]
    python tests/gpu/visit.py tables OUT > docs/measurements/NAME.md

`stage` also packs DIR into DIR.parts/, pieces of 56 MiB; `run` unpacks them where DIR is not there. `run` takes the
steps of steps.py in their order, or --only's, one at a time on each GPU, and starts none that does not fit into the
budget; `plan` prints when each would run. A step on several GPUs begins when as many are free; trainings and
checks share one. Each step's figures are
a file of their own under OUT, and a step that is done is not repeated: call `run` again with the same OUT until it says
that nothing is left. OUT/visit.json has each step's status and seconds. --back gets visit.tar.gz, every figure, log and
timing cache without engines, after each step, and at the end some pieces of the kit's outputs. `run` needs the standard
library alone, Python 3.8; run it with the Python that has TensorRT, or name that one by --python.
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

import schedule  # noqa: E402
import steps as table  # noqa: E402

FIGURES = (".json", ".log", ".txt", ".timing")
LARGEST = 4 << 20  # bytes of a figure that comes back
BUNDLE = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH")  # of the Python that has TensorRT, and not of PyTorch's
PIECES = 3  # of the kit's outputs that one call brings back
POLL = 1  # seconds between looks at what else is there
GRACE = 1  # seconds between asking a step to end and ending it
SPARE = 5  # seconds of the budget for the last archive


class Visit:
    """The steps of a visit, and which of them are done."""

    def __init__(self, args, steps):
        self.args, self.out, self.waiting, self.kit = args, Path(args.out), steps, Path(args.dir) / "kit"
        self.end, self.lock = time.monotonic() + args.budget_seconds - SPARE, threading.Condition()
        self.out.mkdir(parents=True, exist_ok=True)
        if (Path(args.dir) / "timing").exists() and not (self.out / "timing").exists():
            shutil.copytree(str(Path(args.dir) / "timing"), str(self.out / "timing"))
        path = self.out / "visit.json"
        self.done = json.loads(path.read_text()) if path.exists() else {}

    def run(self):
        """Take all steps that fit, each when its GPUs are free; return the names of those that are left."""
        self.waiting = [step for step in self.waiting if not self.is_done(step)]
        self.waiting.sort(key=lambda step: step.name in self.done)  # what failed or was cut off comes last
        self.gpus, self.running = schedule.Gpus(self.args.gpus.split(",")), set()
        with self.lock:
            while True:
                here = [step for step in self.waiting if step.python != "tensorrt" or self.has_tensorrt()]
                step = schedule.choose(here, self.is_there, self.gpus, self.end - time.monotonic())
                if step:
                    self.begin(step)
                elif self.running or not self.has_tensorrt():
                    self.lock.wait(POLL)
                else:
                    return [step.name for step in self.waiting]

    def begin(self, step):
        self.waiting.remove(step)
        self.running.add(step.name)
        threading.Thread(target=self.work, args=(step, self.gpus.take(step))).start()

    def work(self, step, gpus):
        self.take(step, ",".join(gpus))
        with self.lock:
            self.running.remove(step.name)
            self.gpus.give(step, gpus)
            self.lock.notify_all()

    def has_tensorrt(self):
        """Return whether steps of TensorRT can run: its bundle may still be on the way when a visit begins."""
        late = self.args.wait_for
        return not late or os.path.exists(late) or time.monotonic() > self.end

    def is_there(self, path):
        return (self.out / path).exists()

    def is_done(self, step):
        went_well = self.done.get(step.name, {}).get("status", 0) == 0
        return went_well and all((self.out / path).exists() for path in step.made)

    def take(self, step, gpu):
        """Run a step's command; note its status and seconds."""
        begin = time.monotonic()
        with open(str(self.out / f"{step.name}.log"), "ab") as log:
            child = subprocess.Popen(
                ["taskset", "-c", self.cores(gpu), *self.python(step), *map(str, step.command)],
                cwd=str(step.folder or table.ROOT),
                env=self.environment(step, gpu),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                status = child.wait(timeout=max(min(self.end - begin, self.args.limit), 1))
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGABRT)  # Python tells in the log where it is
                time.sleep(GRACE)
                os.killpg(child.pid, signal.SIGKILL)
                status = child.wait()
        self.note(step.name, {"status": status, "seconds": round(time.monotonic() - begin, 1), "gpu": gpu})

    def python(self, step):
        name = {"tensorrt": self.args.python, "torch": self.args.torch_python}.get(step.python)
        return [name] if name else []

    def cores(self, gpu):
        """Return the processors of a step, each GPU's equal share of the host's, or all for a step without a GPU."""
        every, names = sorted(os.sched_getaffinity(0)), self.args.gpus.split(",")
        share = max(1, len(every) // len(names))
        own = [core for name in filter(None, gpu.split(",")) for core in every[names.index(name) * share :][:share]]
        return ",".join(map(str, own or every))

    def environment(self, step, gpu):
        plugin = self.out / "plugin.so"
        more = {
            "CUDA_VISIBLE_DEVICES": gpu,
            "PYTHONFAULTHANDLER": "1",
            "LEVIT_TIMING_CACHES": str((self.out / "timing").resolve()),
            "TORCHINDUCTOR_CACHE_DIR": str((self.out / "inductor").resolve()),
            "TORCH_PYTHON": self.args.torch_python,
            "TENSORRT_INCLUDE": str((Path(self.args.dir) / "include").resolve()),
        }
        if plugin.exists() and plugin.stat().st_size:
            more["LEVIT_PLUGIN"] = str(plugin.resolve())
        left = {key: value for key, value in os.environ.items() if step.python == "tensorrt" or key not in BUNDLE}
        if step.python == "torch":
            more["PYTHONPATH"] = str((Path(self.args.dir) / "python").resolve())
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
        """Write what comes back: figures and logs."""
        if not self.args.back:
            return
        back = Path(self.args.back)
        back.mkdir(parents=True, exist_ok=True)
        with tarfile.open(str(back / "visit.partial"), "w:gz") as archive:
            for folder, under in ((self.out, ""), (self.kit / "results", "kit/results/")):
                for path in filter(is_figure, sorted(folder.rglob("*"))):
                    archive.add(str(path), under + str(path.relative_to(folder)))
        os.replace(str(back / "visit.partial"), str(back / "visit.tar.gz"))

    def give_kit(self):
        """Give the next pieces of the kit's outputs: a call brings back little, and there may be several calls."""
        pieces, whole = self.out / "pieces", self.kit / "outputs.tar"
        if not (self.args.back and whole.exists()):
            return
        if not pieces.exists() or pieces.stat().st_ctime < whole.stat().st_mtime:
            pieces.mkdir(exist_ok=True)
            subprocess.run(["split", "-b", "15M", "-d", str(whole), str(pieces / "outputs.tar.")], check=True)
        for piece in sorted(pieces.iterdir())[:PIECES]:
            shutil.move(str(piece), str(Path(self.args.back) / piece.name))
        print(f"{len(list(pieces.iterdir()))} pieces of the kit's outputs come with the next calls", flush=True)


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


def steps_of(args):
    """Return the steps on the staged folder that are asked for, in the order in which `--only` names them."""
    unpack(Path(args.dir))
    steps, wanted = table.steps(Path(args.dir).resolve(), Path(args.out).resolve()), args.only.split(",")
    first = [next((n for n, name in enumerate(wanted) if step.name.startswith(name)), None) for step in steps]
    return [steps[i] for i in sorted((i for i, n in enumerate(first) if n is not None), key=first.__getitem__)]


def run(args):
    visit = Visit(args, steps_of(args))
    left = visit.run()
    visit.give_kit()
    print(f"left: {', '.join(left) or 'nothing'}", flush=True)


def plan(args):
    steps, out, gpus = steps_of(args), Path(args.out).resolve(), schedule.Gpus(args.gpus.split(","))
    for begin, end, names, step in schedule.simulate(steps, out, gpus, args.budget_seconds - SPARE):
        print(f"{begin:5.0f} to {end:5.0f} s  GPU {','.join(names) or '-':8s}  {step.name}")
    print(f"left: {', '.join(step.name for step in steps) or 'nothing'}")


def stage(args):
    import stage as staging

    if args.dir.exists():
        shutil.rmtree(str(args.dir))
    staging.write(args.dir, args.results, args.headers, args.more)
    for folder in args.also:
        shutil.copytree(str(folder), str(args.dir), dirs_exist_ok=True)
    (args.dir / "whole").write_text("")
    parts = Path(f"{args.dir}.parts")
    parts.mkdir(exist_ok=True)
    packed = f"set -o pipefail; tar -cf - -C '{args.dir}' . | gzip -1"
    subprocess.run(["bash", "-c", f"{packed} | split -b 56M -d -a 2 - '{parts}/part.'"], check=True)
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
    one.add_argument("--also", nargs="*", type=Path, default=[], help="folders whose content is added: see stage.py")
    two, plans = kinds.add_parser("run"), kinds.add_parser("plan")
    for parser_of_steps in (two, plans):
        parser_of_steps.add_argument("dir", help="what `stage` wrote")
        parser_of_steps.add_argument("out", help="folder of the figures")
        parser_of_steps.add_argument("--budget-seconds", type=float, required=True)
        parser_of_steps.add_argument("--gpus", default="0")
        parser_of_steps.add_argument(
            "--only", default="", help="names of steps, or how they begin, in the order wanted"
        )
    two.add_argument("--limit", type=float, default=600, help="seconds of a step")
    two.add_argument("--back", help="folder that gets visit.tar.gz")
    two.add_argument("--wait-for", help="file that is there once the Python with TensorRT is")
    two.add_argument("--python", default=sys.executable, help="with TensorRT")
    two.add_argument("--torch-python", default="python3", help="with PyTorch and timm")
    three = kinds.add_parser("tables")
    three.add_argument("out", type=Path)
    args = parser.parse_args()
    {"stage": stage, "run": run, "plan": plan, "tables": tables}[args.kind](args)


if __name__ == "__main__":
    main()
