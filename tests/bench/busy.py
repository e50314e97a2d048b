"""Training on a machine that others use too: images a second with OpenMP's own spinning, and with that of our jobs.

    python tests/bench/busy.py [--rounds 3] [--seconds 6] [--loops 2]

OpenMP threads spin at barriers. A spinning thread whose partner has no processor wastes its own share as well. Both
settings train in turns, on a quiet machine and beside busy loops, each in a process of its own; ratios are medians over
the rounds, with the smallest and the largest round.
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


def train(seconds):
    """Print the images a second of LeViT-128S's training steps."""
    import timm
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = timm.create_model("levit_128s", num_classes=CLASSES, distilled=False).train()
    optimizer = torch.optim.AdamW(model.parameters())
    images, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.arange(BATCH) % CLASSES

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step()
    steps, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        step()
        steps += 1
    print(steps * BATCH / (time.monotonic() - start))


def measured(variables, loops, seconds):
    """Return the images a second of a process with these environment variables, beside a number of busy loops."""
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        command = [sys.executable, __file__, "--train", "--seconds", str(seconds)]
        done = subprocess.run(command, env={**environment, **variables}, stdout=subprocess.PIPE, check=True, text=True)
        return float(done.stdout)
    finally:
        for other in others:
            other.kill()


def compare(rounds, seconds, loops):
    """Print each setting's speed, quiet and busy, and its ratio to the quiet speed of OpenMP's default."""
    cases = [(name, state) for state in ("quiet", "busy") for name in SETTINGS]
    speeds = {case: [] for case in cases}
    for _ in range(rounds):
        for name, state in cases:
            speeds[name, state].append(measured(SETTINGS[name], loops if state == "busy" else 0, seconds))
    base = statistics.median(speeds[cases[0]])
    print(
        f"\nTraining, {rounds} rounds of {seconds:g} s, {len(os.sched_getaffinity(0))} cores; busy: {loops} busy loops"
    )
    for (name, state), values in speeds.items():
        ratio, ends = statistics.median(values) / base, f"{min(values):.1f} to {max(values):.1f}"
        note = f"promised >= {PROMISED[state]:g}" if name != cases[0][0] else ""
        print(f"  {state:<6} {name:<22} {statistics.median(values):7.1f} images/s ({ends})  {ratio:5.2f}x  {note}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--loops", type=int, default=2)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.seconds)
    else:
        compare(args.rounds, args.seconds, args.loops)


if __name__ == "__main__":
    main()
