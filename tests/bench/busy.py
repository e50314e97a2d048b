"""Host jobs on a machine that others use too: images a second as libraries spin by default, and as our jobs let them.

    python tests/bench/busy.py [--tasks train plan ...] [--rounds 3] [--seconds 3] [--loops 2]    # about six minutes

A spinning thread whose partner has no processor wastes its own share as well. Both settings have a process each, which
compute in turns, on a quiet machine and beside busy loops; ratios are medians over the rounds, with the smallest and
the largest round. Libraries by themselves train on the threads of one process, our jobs in a process for each
micro-batch. `evaluate_*` run engines of `make bench`.
"""

import argparse
import contextlib
import functools
import os
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

from core import spinning  # noqa: E402

SIZE, CLASSES = 224, 10
QUERY = 16  # images of an engine's query
LIBRARIES, OURS = "as libraries do", "as our jobs do"
SETTINGS = {LIBRARIES: {}, OURS: spinning.OURS}
PROMISED = {"quiet": 0.90, "busy": 0.35}  # over the quiet speed of the libraries' own
ENGINE = ROOT / "results/digits/engines/LeViT-128S.fp32"


def recipe(*keys):
    """Return a row of config.yaml."""
    return functools.reduce(lambda rows, key: rows[key], keys, yaml.safe_load((ROOT / "config.yaml").read_text()))


def images(count):
    """Return float32 [count, 3, SIZE, SIZE]."""
    import torch

    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def train(processes):
    """Return a training step of LeViT-128S, of a process's share of a batch of its recipe."""
    import timm
    import torch

    model = timm.create_model("levit_128s", num_classes=CLASSES, distilled=False).train()
    model = model.to(memory_format=torch.channels_last)
    count = TRAININGS["train"]()["batch"] // processes
    return stepper(model, count, lambda logits: logits.logsumexp(1).sum(), 1e-3, processes)


def qat(processes):
    """Return a step of QAT with learned scales, of a process's share of a batch of its recipe."""
    from quantization.calibrator import Calibrator
    from quantization.lsq import LearnedScales
    from quantization.qat import Observed

    _, network = Calibrator(folded(), images(16)).calibrate({"method": "max"})
    model = Observed(network, LearnedScales(network, images(2)))
    count = TRAININGS["qat"]()["batch"] // processes
    return stepper(model, count, lambda outputs: outputs[0].square().mean(), 1e-5, processes)


def calibrate(_):
    """Return the collection of the histograms of two batches of calibration, which threads share."""
    from quantization import backends, histograms

    network, batches = backends.add(folded(), {}), images(2 * histograms.BATCH)

    def step():
        histograms.collect(network, batches)
        return len(batches)

    return step


def plan(_):
    """Return the simulation of chunks of images in FP16, one on each thread."""
    from graph import onnx_io, passes
    from model import export
    from planning import planner, simulate

    graph = passes.transform(onnx_io.from_model(export.to_onnx(folded(), SIZE)), ("fold_constants", "fold_shapes"))
    network = simulate.Network(graph)
    treated = dict.fromkeys((node.name for node in network.nodes), simulate.Half())
    workers = len(os.sched_getaffinity(0))
    batch = images(workers * planner.CHUNK)

    def step():
        logits = lambda part: network.logits({network.input: part}, treated)  # noqa: E731
        simulate.each(logits, batch.split(planner.CHUNK), workers)
        return len(batch)

    return step


def evaluate(target, runtime):
    """Return a function that returns a query of an engine of `make bench`."""

    def task(_):
        import numpy as np

        import runtimes

        session = runtimes.load(runtime).load(f"{ENGINE}.{target}.engine")
        batch = np.zeros((QUERY, 3, SIZE, SIZE), np.float32)
        return lambda: len(session.run(batch))

    return task


def folded():
    """Return the folded LeViT-128S with random weights."""
    from model import deploy, zoo

    return deploy.fold(zoo.create({"timm": "levit_128s", "size": SIZE}, CLASSES), images(2))


def stepper(model, count, loss, rate, processes):
    """Return a function that takes a step on loss(outputs of `count` images), with products in our trainings' type.

    The images are drawn anew each time, which takes one thread about as long as loading them.
    """
    import torch

    from model import context, parallel, training

    device, optimizer = torch.device("cpu"), torch.optim.AdamW(model.parameters(), rate, fused=True)
    shared = types.SimpleNamespace(parameters=list(model.parameters()), exchange=lambda: None)
    if processes > 1:
        parallel.average_gradients(shared)

    def step():
        optimizer.zero_grad()
        with training.autocast(device, context.product_type(device)):
            value = loss(model(images(count)))
        value.backward()
        shared.exchange()
        optimizer.step()
        return count * processes

    return step


TRAININGS = {
    "train": functools.partial(recipe, "datasets", "digits", "training"),
    "qat": functools.partial(recipe, "precisions", "int8_qat", "qat"),
}
EVALUATIONS = {"evaluate_cpu": evaluate("cpu", "openvino"), "evaluate_ort": evaluate("ort", "onnxruntime")}
TASKS = {"train": train, "qat": qat, "calibrate": calibrate, "plan": plan, **EVALUATIONS}


def serve(task, setting):
    """Print the images a second of a task's steps, which return their number of images, for the seconds on stdin."""
    if task in EVALUATIONS:  # OpenVINO and torch share no process
        answer(sys.stdin, TASKS[task](1), lambda seconds: seconds)
        return
    from core import processors
    from model import context, parallel, training

    shared = task in TRAININGS and setting == OURS
    processes = context.processes_of(0, TRAININGS[task](), "cpu", processors.available()) if shared else 1
    training.start(0, 1 if shared else 0, "cpu")
    if processes > 1:
        parallel.launch(member, processes, "fork", task, os.dup(sys.stdin.fileno()))
    else:
        answer(sys.stdin, TASKS[task](1), lambda seconds: seconds)


def member(task, questions):
    """Serve a task in one of several processes, of which the first one is asked."""
    import torch
    import torch.distributed as dist

    from model import parallel

    def agreed(seconds):
        value = torch.tensor(float(seconds))
        dist.broadcast(value, 0)
        return float(value)

    with parallel.group(torch.device("cpu"), 0) as (rank, processes, device), open(questions) as lines:
        parallel.connect(processes, device)
        step = TASKS[task](processes)
        answer(lines if rank == 0 else None, step, agreed)


def answer(lines, step, agreed):
    """Step for the seconds of each line, and print the images a second; agreed(x): the x of the process that is asked.

    lines: None in the others, which take as many steps.
    """
    step()
    if lines:
        print("ready", flush=True)
    while True:
        seconds = agreed(float((lines and lines.readline()) or 0))
        if not seconds:
            return
        done, start = 0, time.monotonic()
        while agreed(time.monotonic() - start) < seconds:
            done += step()
        if lines:
            print(done / (time.monotonic() - start), flush=True)


@contextlib.contextmanager
def server(task, setting):
    """Yield a process that serves a task in a setting."""
    ours = (*spinning.OURS, "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    command = [sys.executable, __file__, "--serve", task, setting]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env={**environment, **SETTINGS[setting]}, text=True, **pipes) as process:
        while process.stdout.readline() != "ready\n":
            if process.poll() is not None:
                raise SystemExit(f"error: {task} ended with status {process.returncode}")
        yield process
        process.stdin.close()


def measured(process, loops, seconds):
    """Return the images a second of a served task, beside a number of busy loops."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        print(seconds, file=process.stdin, flush=True)
        return float(process.stdout.readline())
    finally:
        for other in others:
            other.kill()
            other.wait()


def compare(task, rounds, seconds, loops):
    """Print each setting's speed at a task, quiet and busy, and its ratio to the quiet speed of the libraries' own."""
    cases = [(name, state) for state in ("quiet", "busy") for name in SETTINGS]
    speeds = {case: [] for case in cases}
    with contextlib.ExitStack() as stack:
        served = {name: stack.enter_context(server(task, name)) for name in SETTINGS}
        for _ in range(rounds):
            for name, state in cases:
                speeds[name, state].append(measured(served[name], loops if state == "busy" else 0, seconds))
    base = statistics.median(speeds[cases[0]])
    cores = len(os.sched_getaffinity(0))
    print(f"\n{task}, {rounds} rounds of {seconds:g} s, {cores} cores; busy: {loops} busy loops")
    for (name, state), values in speeds.items():
        ratio, ends = statistics.median(values) / base, f"{min(values):.1f} to {max(values):.1f}"
        note = f"promised >= {PROMISED[state]:g}" if name != cases[0][0] else ""
        print(f"  {state:<6} {name:<16} {statistics.median(values):7.1f} images/s ({ends})  {ratio:5.2f}x  {note}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--loops", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return
    for task in args.tasks:
        compare(task, args.rounds, args.seconds, args.loops)


if __name__ == "__main__":
    main()
