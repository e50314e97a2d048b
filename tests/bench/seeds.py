"""Top-1 of a precision's engine and of PyTorch FP32 over seeds of splits, training and QAT: about three minutes each.

    python tests/bench/seeds.py [--seeds 0 1 2 3 4] [--result LeViT-128S.int8_qat.cpu]

The results of the last seed stay in results/; what was trained stays in the store.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "results/digits/accuracy"


def scores(result, seed):
    """Return top-1 of PyTorch FP32 and of a result's engine, and their agreement, in percent."""
    reference, engine = (f"{FOLDER}/{name}.json" for name in (f"{result.partition('.')[0]}.torch", result))
    command = [sys.executable, "-m", "snakemake", "--quiet", "all", "--config", f"seed={seed}", "--", reference, engine]
    subprocess.run(command, cwd=ROOT, check=True)
    fp32, low = (json.loads((ROOT / path).read_text()) for path in (reference, engine))
    return fp32["top1"], low["top1"], low["agreement_with_fp32"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--result", default="LeViT-128S.int8_qat.cpu")
    args = parser.parse_args()
    found = []
    for seed in args.seeds:
        found.append(scores(args.result, seed))
        tell(f"seed {seed}", args.result, found[-1])
    tell(f"mean of {len(found)}", args.result, map(statistics.mean, zip(*found)))


def tell(what, result, figures):
    """Print the figures of `scores`."""
    fp32, low, agreement = figures
    print(f"{what}: FP32 {fp32:.2f} %, {result} {low:.2f} %, agreement {agreement:.2f} %", flush=True)


if __name__ == "__main__":
    main()
