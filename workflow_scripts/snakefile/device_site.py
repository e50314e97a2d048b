"""On a device (`site: device`) the host's artifacts are brought, never made: their jobs are named and do not start.

Read while Snakemake parses, on hosts and devices alike: standard library only, Python 3.8.
"""

import functools
import getpass
import os
import platform
import shlex
import sys
import time

from snakefile.rule_facts import is_host_built
from snakefile.run_checks import stop

SKEW = 1.0  # seconds that a file may seem to come from the future


def trust(rules, tables):
    """On a device, let the times of what the host's artifacts were made of decide nothing.

    Files that were copied have the times of another clock, or of the copying, and those of a checkout are its own.
    What the host's metadata records (params, sets of inputs) still counts, where that was copied as well.
    """
    if not tables.on_device:
        return
    for rule in rules:
        if is_host_built(rule):
            timeless = {name: _timeless(item) for name, item in rule.input.items()}
            rule._input = type(rule.input)()
            rule.set_input(**timeless)


def _timeless(item):
    """Return a rule's input (a path, several, or a function of wildcards) with Snakemake's flag `ancient`."""
    from snakemake.io import ancient

    if callable(item):
        return functools.wraps(item)(lambda wildcards: ancient(item(wildcards)))
    return ancient(str(item) if isinstance(item, str) else [str(path) for path in item])


def start(dag, tables):
    """On a device, before any job: end where the host's work is missing or stale; set times of the future to now."""
    if not tables.on_device:
        return
    jobs = list(dag.needrun_jobs())
    for line in missing(dag):
        print(f"error: {line}", file=sys.stderr)
    if any(is_host_built(job.rule) for job in jobs):
        stop("a device makes none of that (site: device in the config); results/ may also be copied as a whole")
    ahead = clamp_future_mtimes({str(path) for job in jobs for path in job.input})
    if ahead:
        print(
            f"clock skew: {len(ahead)} brought files were up to {max(ahead):.0f} s in the future: set to now",
            file=sys.stderr,
        )


def missing(dag):
    """Return one line for each artifact that jobs here lack of the host's, with the command that brings it."""
    jobs = list(dag.needrun_jobs())
    brought = [job for job in jobs if is_host_built(job.rule)]
    read = {str(path) for job in jobs if not is_host_built(job.rule) for path in job.input}
    passed = {str(path) for job in brought for path in job.input}
    lines = []
    for job in brought:
        outputs, reason = [str(path) for path in job.output], dag.reason(job)
        asked = [path for path in outputs if path in read] or ([] if passed & set(outputs) else outputs[:1])
        lines += [_line(path, "is missing here") for path in asked if not os.path.exists(path)]
        if reason.params_changed or reason.input_changed:
            lines.append(_line(outputs[0], "was made there with another config.yaml or other code than is here"))
    return sorted(lines)


def _line(path, problem):
    here = shlex.quote(f"{getpass.getuser()}@{platform.node()}:{os.getcwd()}/")
    return f"{path} {problem}: on the host run snakemake {path} && rsync -rlcR {path}* {here}"


def clamp_future_mtimes(paths):
    """Give files with times of the future the time now; return the seconds by which each was ahead.

    A job that ends before the time of its input would be stale at once, and for ever.
    """
    now, ahead = time.time(), []
    for path in sorted(paths):
        if os.path.exists(path) and os.stat(path).st_mtime > now + SKEW:
            ahead.append(os.stat(path).st_mtime - now)
            os.utime(path, (now, now))
    return ahead
