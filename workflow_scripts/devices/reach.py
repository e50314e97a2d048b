"""Which targets this machine is, or reaches, and what they are; the environment in which their jobs run.

A board that is reached by ssh is not asked here: it counts as reachable, and its identity is the one that it reported
when a run last started (snakefile/preflight.py).
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from typing import Any

from configuration.tables import Tables, pick
from core import addresses, sources, tiers
from core.files import canonical, read_json
from devices import probe

TIMING_CACHES = ".cache/timing"  # kernel timings that make a second build fast; they decide nothing about an engine
BENCHMARKS = ".cache/benchmarks"  # timings of this machine (measure/benchmark_cache.py); deleted ones are taken again
JOBS_LOCK = ".snakemake/levit.jobs.lock"  # each running job holds a shared lock, a starting run tries it
TIMING_LOCK = ".snakemake/levit.timing.lock"  # each job that measures time holds a shared lock: uploads wait for it
IDENTITIES = ".cache/boards"  # identities that boards reported when a run last started
ONNX = {"runtime": "onnxruntime"}  # what evaluates exported graphs
FACTS = ("runtime", "device", "version", "architecture", "compute_capability", "dla")  # keys that say what a device is


def ask(row: dict, question: str, *more: object) -> Any:
    """Return what devices/probe.py's function `question` answers of a target's row, in the interpreter of its jobs."""
    if row.get("ssh") or row.get("slurm"):
        return None
    if not row.get("python"):
        return getattr(probe, question)(row, *more)
    answer = _printed(*command(row["python"], question, row, *more))
    if answer is None:
        return None if question == "identity" else f"its interpreter {row['python']} does not run here"
    return json.loads(answer)


def command(python: str, question: str, *arguments: object) -> list[str]:
    """Return a command line that prints what devices/probe.py's function `question` answers, as JSON."""
    program = "import sys, json; sys.path.insert(0, sys.argv[1]); from devices import probe\n"
    program += "print(json.dumps(getattr(probe, sys.argv[2])(*json.loads(sys.argv[3]))))"
    return [python, "-c", program, str(sources.ROOT), question, canonical(arguments)]


@functools.lru_cache(maxsize=None)
def _printed(*words):
    try:
        return subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout.decode()
    except (OSError, subprocess.SubprocessError):
        return None


@functools.lru_cache(maxsize=None)
def reachable_results(tables: Tables) -> list[tuple]:
    """Return the listed results for targets within reach; name the targets that are skipped once on stderr."""
    away = {target: ask(tables.row("target", target), "unreachable") for target in tables.listed("target")}
    lines = [f"{target}: {reason}" for target, reason in away.items() if reason]
    for line in lines + tables.left_out(tables.listed("precision")):
        print(f"skipped: {line}", file=sys.stderr)
    return [triple for triple in tables.valid(tables.listed) if not away[triple[2]]]


@functools.lru_cache(maxsize=None)
def identity(tables: Tables, target: str) -> dict:
    """Return a target's identity: probed where it is this machine, else as recorded, else from its row."""
    row = tables.row("target", target)
    return ask(row, "identity") or _recorded(target, row) or pick(row, *FACTS)


def _recorded(target, row):
    """Return the identity that a board reported when a run last started, or that of its target's file, or None."""
    reported = [f"{IDENTITIES}/{target}.json"] if row.get("ssh") or row.get("slurm") else []
    for path in [*reported, f"results/targets/{target}.json"]:
        if os.path.exists(path):
            return {key: value for key, value in read_json(path).items() if key not in probe.OF_THE_LIBRARY}
    return None


def board(tables: Tables, target: str) -> dict | None:
    """Return how a target is reached by ssh, or None where its jobs run here."""
    row = tables.row("target", target)
    return {"name": target, **pick(row, "ssh", "workdir", "python", "ssh_config")} if row.get("ssh") else None


def slots(tables: Tables) -> dict[str, tuple[int, dict[str, int]]]:
    """Return {name of a resource: (its units, {target: units of a job})}, none where no board is reached by ssh.

    A set of boards has a unit a board. Jobs on boards take no core here: `beside` keeps them apart from jobs of
    targets that are this machine.
    """
    rows = tables.names("target")
    several = {name: row["ssh"] for name, row in rows.items() if row.get("ssh")}
    sets = {name: frozenset([ssh] if isinstance(ssh, str) else ssh) for name, ssh in several.items()}
    first = {several: name for name, several in reversed(list(sets.items()))}
    units = {f"board_{first[s]}": (len(s), {t: 1 for t, boards in sets.items() if boards <= s}) for s in first}
    total = sum(count for count, _ in units.values())
    return {**units, "beside": (total, {name: 1 if name in sets else total for name in rows})} if units else {}


def environment(tables: Tables, python: str) -> dict[str, str]:
    """Return the environment of jobs, which decides no content; LEVIT_PYTHON, where it is set, replaces `python`."""
    config, python = tables.config, os.environ.get("LEVIT_PYTHON") or python
    reached = {target: board(tables, target) for target in config["targets"]}
    return {
        "LEVIT_PYTHON": python,
        **{f"LEVIT_PYTHON_{t}": row.get("python") or python for t, row in config["targets"].items()},
        **{f"LEVIT_BOARD_{t}": canonical(described) for t, described in reached.items() if described},
        tiers.STORE: (tables.store or {}).get("at", ""),
        tiers.OPTIONS: canonical({key: value for key, value in (tables.store or {}).items() if key != "at"}),
        "LEVIT_JOBS": JOBS_LOCK,
        "LEVIT_TIMING": TIMING_LOCK,
        "LEVIT_TIMING_CACHES": TIMING_CACHES,
        "LEVIT_BENCHMARKS": BENCHMARKS,
        "LEVIT_RETRAIN": "1" if config.get("retrain_on_upgrade") else "",
        addresses.VARIABLE: addresses.secret(row["url"] for row in config["models"].values() if "url" in row),
    }
