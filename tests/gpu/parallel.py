"""Fine-tune and run QAT in one process and in several, one for each GPU, and compare: the workflow's own commands.

python3 tests/gpu/parallel.py STAGED OUT.json cpu|cuda PROCESSES [EPOCHS [CASE,CASE]]

A CASE is bf16, fp16, qat, killed, again or parent, by default all: killed and again kill one of the processes, and go
on in one or in as many as before; parent kills the command itself. OUT.json has for each case its seconds, top-1 and
the utilization of the GPUs.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
BATCH, RATE = 128, 0.0003
CASES = ["bf16", "fp16", "qat", "killed", "again", "parent"]
QUERY = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
QUERY += [f"--id={names}" for names in [os.environ.get("CUDA_VISIBLE_DEVICES")] if names]


class Visit:
    """The staged files of a model, and commands on them."""

    def __init__(self, staged, work, device, epochs):
        rows = yaml.safe_load((ROOT / "config.yaml").read_text())
        self.staged, self.work, self.device = staged, work, device
        self.row = json.loads((staged / "models.json").read_text())["LeViT-128S"]
        recipe = {"epochs": epochs, "small_epochs": 0, "learning_rate": RATE, "batch": BATCH}
        self.training = {**rows["datasets"]["digits"]["training"], **recipe}
        self.recipe = {"scale_learning_rate": 3e-4, "features": 0.0, "ema": 0.0, "scales": "frozen", "temperature": 1.0}
        self.recipe.update({"learning_rate": 3e-5, **rows["precisions"]["int8_qat"]["qat"], "batch": BATCH})
        self.shared = {"model": staged / self.row["model"], "classes": self.row["classes"]}

    def command(self, name, **options):
        words = [word for key, value in {**options, **self.shared}.items() for word in (f"--{key}", str(value))]
        return [sys.executable, str(ROOT / f"workflow_scripts/{name}.py"), *words]

    def train(self, name, processes, compute=None):
        """Return the command of a fine-tuning, and what it makes."""
        made, recipe = self.work / f"{name}.pth", {**self.training, **({"compute": compute} if compute else {})}
        given = {"index": self.staged / "data/index.json", "start": self.staged / self.row["checkpoint"], "seed": 0}
        given.update(training=json.dumps(recipe), device=self.device, processes=processes, checkpoint=made)
        return self.command("train", **given), made

    def qat(self, name, processes):
        made = self.work / f"{name}.pth"
        given = {"checkpoint": self.staged / self.row["checkpoint"], "images": self.staged / self.row["images"]}
        given.update(calibration=self.staged / "calibration/LeViT-128S.int8_qat.json", seed=0, qat=made)
        given.update(index=self.staged / "data/index.json", augmentation=json.dumps(self.training))
        given.update(recipe=json.dumps(self.recipe), device=self.device, processes=processes)
        return self.command("train_qat", **given), made

    def timed(self, command):
        """Run a command; return its seconds and the utilization of each GPU."""
        samples, done, begin = [], threading.Event(), time.monotonic()
        thread = threading.Thread(target=sample, args=(samples, done), daemon=True)
        thread.start()
        subprocess.run(command, check=True)
        done.set()
        thread.join()
        busy = [round(statistics.median(values)) for values in zip(*samples)]
        return {"seconds": round(time.monotonic() - begin, 1), "gpu_percent": busy}

    def top1(self, checkpoint):
        images = {"images": self.staged / self.row["images"], "index": self.staged / self.row["index"], "split": "val"}
        files = {"accuracy": self.work / "a.json", "logits": self.work / "a.npy"}
        subprocess.run(self.command("evaluate_torch", checkpoint=checkpoint, **images, **files), check=True)
        return json.loads(files["accuracy"].read_text())["top1"]

    def killed(self, processes, then):
        """Kill one of the processes after an epoch, go on in `then`; return what it prints and what it records."""
        child, workers, made = self.begun(f"killed {then}", processes)
        if workers:
            os.kill(workers[-1], signal.SIGKILL)
        begin = time.monotonic()
        text = child.communicate(timeout=120)[1]
        found = {"status": child.returncode, "said": [line for line in text.splitlines() if "error: " in line]}
        found["seconds_to_end"] = round(time.monotonic() - begin, 1)
        subprocess.run(self.train(f"killed {then}", then)[0], check=True)
        record = json.loads(Path(f"{made}.provenance").read_text())
        return {**found, "context": record["context"], "top1": self.top1(made)}

    def parent(self, processes):
        """Kill the command after an epoch; return how many of its processes are left 5 seconds later."""
        child, workers, _ = self.begun("parent", processes)
        child.kill()
        child.wait()
        time.sleep(5)
        return {"workers": len(workers), "left": sum("spawn_main" in arguments(pid) for pid in workers)}

    def begun(self, name, processes):
        """Begin a training; once an epoch is saved, return the command's process, the others' numbers, the output."""
        command, made = self.train(name, processes)
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while not Path(f"{made}.resume").exists() and child.poll() is None:
            time.sleep(0.05)
        return child, [pid for pid in children(child.pid) if "spawn_main" in arguments(pid)], made


def sample(samples, done):
    """Append the GPUs' utilization once a second, where there is nvidia-smi."""
    try:
        while not done.wait(1):
            samples.append([float(line) for line in subprocess.check_output(QUERY, text=True).split()])
    except (OSError, subprocess.CalledProcessError):
        return


def children(parent):
    """Return the processes below a process."""
    stats = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/stat")}
    return [pid for pid in stats if arguments(pid) and f" {parent} " in stats[pid].read_text().rpartition(")")[2][:20]]


def arguments(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def main():
    staged, out, device, several = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    found, given = {"device": device, "processes": several}, sys.argv[5:]
    cases = given[1].split(",") if len(given) > 1 else CASES if device == "cuda" else [*CASES[:1], *CASES[2:]]
    with tempfile.TemporaryDirectory() as name:
        visit = Visit(staged, Path(name), device, int(given[0]) if given else 20)
        for compute in filter(cases.__contains__, CASES[:2]):
            for processes in (1, several):
                case = f"finetune {compute}, {processes}"
                command, made = visit.train(case, processes, compute)
                found[case] = {**visit.timed(command), "top1": visit.top1(made)}
        if "qat" in cases:
            for processes in (1, several):
                found[f"qat, {processes}"] = visit.timed(visit.qat(f"qat, {processes}", processes)[0])
        for case in filter(cases.__contains__, CASES[3:5]):
            found[case] = visit.killed(several, 1 if case == "killed" else several)
        if "parent" in cases:
            found["parent"] = visit.parent(several)
    out.write_text(json.dumps(found, indent=1))
    print(found)


if __name__ == "__main__":
    main()
