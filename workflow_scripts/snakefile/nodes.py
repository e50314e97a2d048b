"""What a cluster's nodes are, as `cluster` in the configuration, the rows of targets and SLURM itself say it."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import Any

from configuration.tables import Tables, pick
from core import processors
from core.files import UserError
from devices import probe, reach

CORES = "LEVIT_NODE_CORES"  # in the environment, for jobs: {partition: cores of a node}
OPTIONS = ("partition", "constraint", "gpus")  # of srun, as keys of a target's `slurm`


def keep_to_quota(workflow: Any) -> None:
    """Take no more cores than a container's quota allows, where Snakemake takes all that it sees (`cores: all`)."""
    if workflow._cores == processors.seen():
        workflow.global_resources["_cores"] = processors.available()


def cores(tables: Tables, target: str | None = None) -> int | None:
    """Return the cores of a node, or of a node of a target; None without a cluster."""
    if not tables.cluster:
        return None
    row = tables.row("target", target) if target else {}
    number = row.get("slurm", {}).get("cores") or tables.cluster["cores"]
    if number:
        return number
    if target:
        return _cores_of(partition(row, tables))
    used = {tables.cluster.get("partition", ""), *([gpu_partition(tables)] if gpus(tables) else [])}
    return min(map(_cores_of, used))


def gpu_partition(tables: Tables) -> str:
    """Return the partition of jobs with a GPU, "" for the default one."""
    return tables.cluster.get("gpu_partition") or tables.cluster.get("partition", "")


@functools.lru_cache(maxsize=None)
def _cores_of(partition):
    known = json.loads(os.environ.get(CORES) or "{}")
    if partition not in known:
        known[partition] = min(_asked(partition))
        os.environ[CORES] = json.dumps(known)  # jobs of this run take the same number
    return known[partition]


def _asked(partition):
    command = ["sinfo", "--noheader", "--Node", "--format=%P %c"]
    try:
        answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()
    except (OSError, subprocess.SubprocessError):
        raise UserError(
            "cluster.cores is 0, which asks SLURM's sinfo, and that does not answer here: give a number"
        ) from None
    rows = [line.split() for line in answer.splitlines()]
    wanted = [int(number) for name, number in rows if (name.rstrip("*") == partition if partition else "*" in name)]
    if not wanted:
        names = ", ".join(sorted({name.rstrip("*") for name, _ in rows}))
        raise UserError(f"cluster: there is no partition {partition or 'by default'}: one of {names}")
    return wanted


def partition(row: dict, tables: Tables) -> str:
    """Return the partition of a target's nodes, "" for the default one."""
    default = gpu_partition(tables) if target_gpus(row) else tables.cluster.get("partition", "")
    return row.get("slurm", {}).get("partition") or default


def target_gpus(row: dict) -> int:
    """Return how many GPUs a target's jobs get."""
    kind = row.get("device") or probe.RUNTIMES[row["runtime"]].device
    return row.get("slurm", {}).get("gpus", 1 if kind == "cuda" else 0)


def gpus(tables: Tables) -> int:
    """Return how many GPUs a job gets that a GPU makes faster; 0 without a cluster, or where it has none."""
    return tables.cluster.get("gpus", 0)


def identity(tables: Tables, target: str) -> dict:
    """Return what a node of a target is, from a job on one; raise UserError where SLURM gives none, or it differs."""
    row = tables.row("target", target)
    wanted = {**pick(row.get("slurm", {}), *OPTIONS), "partition": partition(row, tables), "gpus": target_gpus(row)}
    options = [f"--{name}={value}" for name, value in wanted.items() if value]
    question = reach.command(row.get("python") or os.environ.get("LEVIT_PYTHON", sys.executable), "report", row)
    command = ["srun", "--ntasks=1", "--time=10", "--job-name=levit_identity", *options, *question]
    try:
        answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode())
    except (OSError, ValueError, subprocess.SubprocessError):
        raise UserError(f"no node answers for the target {target}: {' '.join(command[: 4 + len(options)])}") from None
    if answer["reason"]:
        raise UserError(f"the node that SLURM gave is not the target {target}: {answer['reason']}")
    return answer["identity"]
