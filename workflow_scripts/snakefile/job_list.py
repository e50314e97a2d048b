"""The plan of a run as JSON, for the commands that take jobs to a device by other ways (devices/result_jobs.py)."""

from __future__ import annotations

import os
import shlex
from typing import Any

from core.files import write_json
from devices.result_jobs import ANYWHERE, DEVICE, HOST, JOBS_FILE
from snakefile.rule_facts import code_files, device_purpose, is_host_built, is_result, is_timed


def write(dag: Any, rules: Any, tables: Any) -> None:
    """Write the plan and end Snakemake before its first job, where the environment names a file for that."""
    path = os.environ.get(JOBS_FILE)
    if path:
        ordered = [job for level in dag.toposorted() for job in sorted(level, key=lambda job: str(job.output))]
        jobs = [_described(job) for job in ordered]
        write_json(path, {"dataset": tables.active, "jobs": jobs, "products": _products(ordered, rules)})
        os._exit(0)


def _described(job):
    place, target = _place(job.rule), dict(job.wildcards.items()).get("target")
    code = code_files(job.rule, job.wildcards) if place == DEVICE else []
    return {
        **{"rule": job.rule.name, "place": place, "target": target},
        **{"is_timing": is_timed(job.rule), "is_result": is_result(job.rule)},
        **{"argv": [] if place == HOST else _argv(job), "code": code, "outputs": list(map(str, job.output))},
        "inputs": {name: _paths(value) for name, value in job.input.items()},
    }


def _place(rule):
    if is_host_built(rule):
        return HOST
    return DEVICE if device_purpose(rule) else ANYWHERE


def _argv(job):
    """Return a command line without its interpreter, and without what takes it to a board (`on_device`)."""
    words = shlex.split(job.shellcmd or "")
    return words[words.index("--") + 1 :] if "--" in words else words[1:]


def _paths(value):
    return [str(value)] if isinstance(value, str) else [str(path) for path in value]


def _products(jobs, rules):
    """Return what the rules of a device could write for the targets of some jobs, whether a job asks for it or not."""
    patterns = [pattern for rule in rules if not is_host_built(rule) for pattern in rule.output]
    patterns = [(pattern, set(pattern.get_wildcard_names())) for pattern in patterns]
    wildcards = [dict(job.wildcards.items()) for job in jobs if not is_host_built(job.rule)]
    products = {
        str(pattern.apply_wildcards(values))
        for values in wildcards
        for pattern, names in patterns
        if "target" in names and names <= values.keys()
    }
    return sorted(products)
