"""Host jobs on a machine that others use too: images a second with OpenMP's own spinning, and with that of our jobs.

    python tests/bench/busy.py [--tasks train qat calibrate] [--rounds 3] [--seconds 6] [--loops 2]

OpenMP threads spin at barriers. A spinning thread whose partner has no processor wastes its own share as well. Both
settings compute in turns, on a quiet machine and beside busy loops, each in a process of its own; ratios are medians
over the rounds, with the smallest and the largest round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

from core.command import SPIN_COUNT  # noqa: E402

BATCH, SIZE, CLASSES = 16, 224, 10
SETTINGS = {"OpenMP's default": {}, f"GOMP_SPINCOUNT={SPIN_COUNT}": {"GOMP_SPINCOUNT": SPIN_COUNT}}
PROMISED = {"quiet": 0.90, "busy": 0.35}  # over the quiet speed of OpenMP's default


def images():
    """Return float32 [BATCH, 3, SIZE, SIZE]."""
    import torch

    return torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def train():
    """Return a training step of LeViT-128S."""
    import timm
    import torch

    model = timm.create_model("levit_128s", num_classes=CLASSES, distilled=False).train()
    return stepper(model, lambda model: model(images()).logsumexp(1).sum(), torch.optim.AdamW(model.parameters()))


def qat():
    """Return a step of QAT with learned scales."""
    import torch

    from quantization.calibrator import Calibrator
    from quantization.lsq import LearnedScales

    _, network = Calibrator(folded(), images()).calibrate({"method": "max"})
    scales = LearnedScales(network, images()[:2])
    parameters = [*network.parameters(), *scales.parameters()]
    return stepper(network, lambda model: model(images()).square().mean(), torch.optim.AdamW(parameters, 1e-5))


def calibrate():
    """Return the collection of a batch's histograms."""
    import quantization
    from quantization import histograms

    network = quantization.add(folded(), "modelopt")
    return lambda: histograms.collect(network, images())


TASKS = {"train": train, "qat": qat, "calibrate": calibrate}


def folded():
    """Return the folded LeViT-128S with random weights."""
    from model import deploy, zoo

    return deploy.fold(zoo.create({"timm": "levit_128s", "size": SIZE}, CLASSES), images()[:2])


def stepper(model, loss, optimizer):
    """Return a function that takes a step on loss(model), with products in the type of our trainings."""
    import torch

    from model import context, training

    device = torch.device("cpu")

    def step():
        optimizer.zero_grad()
        with training.autocast(device, context.fast_type(device)):
            value = loss(model)
        value.backward()
        optimizer.step()

    return step


def run(task, seconds):
    """Print the images a second of a task's steps."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    step = TASKS[task]()
    step()
    steps, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        step()
        steps += 1
    print(steps * BATCH / (time.monotonic() - start))


def measured(task, variables, loops, seconds):
    """Return a task's images a second in a process with these environment variables, beside a number of busy loops."""
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        command = [sys.executable, __file__, "--run", task, "--seconds", str(seconds)]
        done = subprocess.run(command, env={**environment, **variables}, stdout=subprocess.PIPE, check=True, text=True)
        return float(done.stdout.split()[-1])
    finally:
        for other in others:
            other.kill()


def compare(task, rounds, seconds, loops):
    """Print each setting's speed at a task, quiet and busy, and its ratio to the quiet speed of OpenMP's default."""
    cases = [(name, state) for state in ("quiet", "busy") for name in SETTINGS]
    speeds = {case: [] for case in cases}
    for _ in range(rounds):
        for name, state in cases:
            speeds[name, state].append(measured(task, SETTINGS[name], loops if state == "busy" else 0, seconds))
    base = statistics.median(speeds[cases[0]])
    cores = len(os.sched_getaffinity(0))
    print(f"\n{task}, {rounds} rounds of {seconds:g} s, {cores} cores; busy: {loops} busy loops")
    for (name, state), values in speeds.items():
        ratio, ends = statistics.median(values) / base, f"{min(values):.1f} to {max(values):.1f}"
        note = f"promised >= {PROMISED[state]:g}" if name != cases[0][0] else ""
        print(f"  {state:<6} {name:<22} {statistics.median(values):7.1f} images/s ({ends})  {ratio:5.2f}x  {note}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--loops", type=int, default=2)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--run", choices=TASKS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(args.run, args.seconds)
        return
    for task in args.tasks:
        compare(task, args.rounds, args.seconds, args.loops)


if __name__ == "__main__":
    main()
