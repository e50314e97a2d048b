"""On a device (`site: device`), host artifacts are copied in, never built; jobs that would build them are refused."""

from __future__ import annotations

import functools
import getpass
import os
import platform
import shlex
import sys
import time
from typing import Any

from configuration.tables import Tables
from snakefile.rule_facts import is_host_built
from snakefile.run_checks import stop

SKEW = 1.0  # seconds that an mtime may be in the future


def trust(rules: Any, tables: Tables) -> None:
    """On a device, mark inputs of host-built artifacts `ancient`: their mtimes come from another clock.

    What the host's metadata records (params, sets of inputs) still counts, where it was copied as well.
    """
    if not tables.on_device:
        return
    for rule in rules:
        if is_host_built(rule):
            items = list(rule.input._allitems())
            rule._input = type(rule.input)()
            for name, item in items:
                rule.set_input(**{name: _timeless(item)}) if name else rule.set_input(_timeless(item))


def _timeless(item):
    """Return a rule's input (a path, several, or a function of wildcards) with Snakemake's flag `ancient`."""
    from snakemake.io import ancient

    if callable(item):
        return functools.wraps(item)(lambda wildcards: ancient(item(wildcards)))
    return ancient(str(item) if isinstance(item, str) else [str(path) for path in item])


def start(dag: Any, tables: Tables) -> None:
    """On a device, before any job: end where host artifacts are missing or stale; clamp mtimes in the future to now."""
    if not tables.on_device:
        return
    jobs = list(dag.needrun_jobs())
    for line in _missing(dag):
        print(f"error: {line}", file=sys.stderr)
    if any(is_host_built(job.rule) for job in jobs):
        stop("a device makes none of that (site: device in the config); results/ may also be copied as a whole")
    ahead = clamp_future_mtimes({str(path) for job in jobs for path in job.input})
    if ahead:
        text = f"clock skew: {len(ahead)} copied files were up to {max(ahead):.0f} s in the future: set to now"
        print(text, file=sys.stderr)


def _missing(dag):
    jobs = list(dag.needrun_jobs())
    host_jobs = [job for job in jobs if is_host_built(job.rule)]
    read = {str(path) for job in jobs if not is_host_built(job.rule) for path in job.input}
    passed = {str(path) for job in host_jobs for path in job.input}
    lines = []
    for job in host_jobs:
        outputs, reason = [str(path) for path in job.output], dag.reason(job)
        needed = [path for path in outputs if path in read] or ([] if passed & set(outputs) else outputs[:1])
        lines += [_line(path, "is missing here") for path in needed if not os.path.exists(path)]
        if reason.params_changed or reason.input_changed:
            lines.append(_line(outputs[0], "was made there with another config.yaml or other code than is here"))
    return sorted(lines)


def _line(path, problem):
    here = shlex.quote(f"{getpass.getuser()}@{platform.node()}:{os.getcwd()}/")
    return f"{path} {problem}: on the host run snakemake {path} && rsync -rlcR {path}* {here}"


def clamp_future_mtimes(paths: set[str]) -> list[float]:
    """Set mtimes in the future, by which outputs would stay stale, to now; return the seconds that each was ahead."""
    now, ahead = time.time(), []
    for path in sorted(paths):
        if os.path.exists(path) and os.stat(path).st_mtime > now + SKEW:
            ahead.append(os.stat(path).st_mtime - now)
            os.utime(path, (now, now))
    return ahead
