"""Two nodes of one core against one: a sweep's jobs that are not timings, on a real SLURM of this machine.

    python tests/bench/cluster_nodes.py --models 4 --out nodes.json

Each model is a row of its own on digits, trained here. Its images, checkpoint, evaluations and INT8 graphs are made on
a cluster of one node, then on one of two, each in a folder of its own without a store. A node is pinned to a core;
Snakemake and SLURM's controller have both cores, so on two nodes they take their share from the jobs: it is measured.
`bound` is what no scheduler passes: the sum of what ran over the longer of half of it and the longest chain.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2] / "workflow_scripts")]

import slurm  # noqa: E402 (its folder is in the path from here)
from workflow import SNAKEMAKE, Workflow  # noqa: E402

PRECISIONS = ["int8_ptq", "int8_qat"]
COMMAND = [SNAKEMAKE, "--profile", "profiles/slurm"]
TICKS = os.sysconf("SC_CLK_TCK")


def sweep(workflow, count, epochs):
    """Add models to a workflow's configuration; return the files that are asked for."""
    names = [f"M{number:02}" for number in range(count)]

    def change(config):
        config["models"].update(dict.fromkeys(names, config["models"]["LeViT-tiny"]))
        config["datasets"]["digits"]["training"].update(epochs=epochs, small_epochs=epochs // 2)
        config["precisions"]["int8_ptq"]["calibration"] = {"method": "max", "images": 512}
        config["store"] = ""

    workflow.config(change)
    data = "results/digits"
    graphs = [f"{data}/quantized/{name}.{precision}.cpu.onnx" for name in names for precision in PRECISIONS]
    return graphs + [f"{data}/{split}/{name}.torch.json" for name in names for split in ("select", "accuracy")]


def pin(cluster):
    """Give each node a core of its own."""
    for core, name in enumerate(cluster.nodes):
        for task in Path(f"/proc/{cluster.processes[name].pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def processor_seconds(number):
    """Return the processor time of a process that runs."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICKS


def jobs_of(cluster):
    """Return each submission: what it was, when it began and ended, and its node."""
    found = []
    for line in cluster.jobs(form="%k|%V|%S|%e|%N|%T"):
        comment, *times, node, state = line.split("|")
        asked, began, ended = (datetime.fromisoformat(text).timestamp() for text in times)
        found.append({"what": comment, "asked": asked, "began": began, "ended": ended, "node": node, "state": state})
    return sorted(found, key=lambda job: job["began"])


def run(folder, nodes, count, epochs):
    """Make the sweep on a cluster; return what it took."""
    workflow = Workflow.fresh(folder / "work")
    targets = sweep(workflow, count, epochs)
    cluster = slurm.Cluster(folder / "slurm", nodes=dict.fromkeys(nodes, 1))
    pin(cluster)
    path, plugin = f"{cluster.bin}:{os.environ['PATH']}", str(slurm.UNPACKED / "python")
    variables = {**os.environ, "PATH": path, "PYTHONPATH": plugin, "LEVIT_PYTHON": sys.executable}
    try:
        start = time.time()
        with workflow.path("printed").open("w") as printed:
            head = subprocess.Popen(
                [*COMMAND, *targets], cwd=workflow.folder, env=variables, stdout=printed, stderr=subprocess.STDOUT
            )
            _, status, used = os.wait4(head.pid, 0)
        seconds = time.time() - start
        if status:
            sys.exit(workflow.path("printed").read_text()[-3000:])
        control = processor_seconds(cluster.processes["slurmctld"].pid)
        return found(start, seconds, used, control, jobs_of(cluster))
    finally:
        cluster.close()


def found(start, seconds, used, control, jobs):
    """Return what a run took; `idle` is the nodes' time without a job from the first job to the last."""
    busy = sum(job["ended"] - job["began"] for job in jobs)
    span = max(job["ended"] for job in jobs) - jobs[0]["began"]
    return {
        "seconds": round(seconds, 1),
        "on_nodes": round(busy),
        "idle": round(span * len({job["node"] for job in jobs}) - busy),
        "head_processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "controller_processor_seconds": round(control, 1),
        "submissions": len(jobs),
        "first_begins": round(jobs[0]["began"] - start, 1),
        "ends_after_last": round(start + seconds - max(job["ended"] for job in jobs), 1),
        "jobs": [
            {
                "what": re.sub(r"rule_|_wildcards.*", "", job["what"]),
                "node": job["node"],
                **{name: round(job[name] - start) for name in ("asked", "began", "ended")},
            }
            for job in jobs
        ],
    }


def bound(one):
    """Return the most that two nodes could gain, from the submissions of one."""
    jobs = [(job["what"], job["ended"] - job["began"]) for job in one["jobs"]]
    total, longest = sum(seconds for _, seconds in jobs), {}
    for what, seconds in jobs:
        kind = next(name for name in ("index", "images", "weights", "quantized", what) if name in what)
        longest[kind] = max(longest.get(kind, 0), seconds)
    return round(total / max(total / 2, sum(longest.values())), 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4, help="of each training")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results = {}
    for nodes in (["n1"], ["n1", "n2"]):
        with tempfile.TemporaryDirectory() as folder:
            results[str(len(nodes))] = run(Path(folder), nodes, args.models, args.epochs)
        print(json.dumps(results[str(len(nodes))]), flush=True)
        args.out.write_text(json.dumps(results, indent=1) + "\n")
    results.update(bound=bound(results["1"]), times=results["1"]["seconds"] / results["2"]["seconds"])
    print(f"{results['times']:.2f} times as fast; the bound is {results['bound']}")
    args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
