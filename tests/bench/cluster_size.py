"""How a dry run for a cluster grows with the results that are asked for: jobs, seconds, memory (docs/cluster.md).

    python tests/bench/cluster_size.py --models 10 100 1000 --out size.json

Each model is a row of its own on digits, with ten pairs of precision and target: a thousand are 10,000 results. Nothing
is submitted; of SLURM, `make slurm` brings the plugin, and no controller is asked.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "workflow_scripts")]

from workflow import REPOSITORY, SNAKEMAKE, Workflow  # noqa: E402 (its folder is in the path from here)

PRECISIONS = ["fp32", "bf16", "fp16", "int8_ptq", "int8_qat"]
LISTED = {"precisions": PRECISIONS, "targets": ["cpu", "ort", "torch"]}  # ten pairs, whose types they have
COMMAND = [SNAKEMAKE, "--dry-run", "--profile", "profiles/slurm", "--configfile", "asked.yaml"]


def asked(workflow, count):
    """Let a workflow's configuration list the results of as many models."""
    names = [f"M{number:05}" for number in range(count)]

    def change(config):
        config["models"].update(dict.fromkeys(names, config["models"]["LeViT-tiny"]))
        config["results"] = {"models": names, **LISTED}

    workflow.config(change)
    workflow.path("asked.yaml").write_text("cluster: {cores: 8}\n")


def dry_run(workflow):
    """Return what a dry run of all that is listed takes and plans."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / ".cache/slurm/python")}
    start = time.monotonic()
    with (workflow.folder / "printed").open("w+") as printed:
        head = subprocess.Popen(COMMAND, cwd=workflow.folder, env=environment, stdout=printed, stderr=printed)
        _, status, used = os.wait4(head.pid, 0)
        seconds = time.monotonic() - start
        printed.seek(0)
        text = printed.read()
    if status:
        sys.exit(text[-2000:])
    return {
        "jobs": int(re.search(r"^(\d+) jobs would run", text, re.MULTILINE).group(1)),
        "seconds": round(seconds, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": used.ru_maxrss // 1024,
        "printed_mb": round(len(text) / 1e6, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = []
    for count in args.models:
        with tempfile.TemporaryDirectory() as folder:
            workflow = Workflow.fresh(Path(folder) / "work")
            asked(workflow, count)
            found.append({"results": 10 * count, "load": round(os.getloadavg()[0], 1), **dry_run(workflow)})
        print(json.dumps(found[-1]), flush=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
