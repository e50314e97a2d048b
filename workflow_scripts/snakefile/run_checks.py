"""Checks before the first job (requested names, targets, this folder's lock) and the results table after the last."""

from __future__ import annotations

import atexit
import collections
import difflib
import fcntl
import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from configuration.tables import Tables
from core.files import UserError, read_json
from devices import power_modes
from devices.reach import JOBS_LOCK
from snakefile import leftovers, orphans, preflight, rule_facts, uploads
from snakefile.job_lines import JobLines

FILE_OPTIONS = ("--report", "--archive", "--stats", "--export-cwl")  # options whose value may lie under results/
STORAGE = "--default-storage-provider"
UNVERSIONED = "--version ''"  # in the options of a job that needs a version which is not known
PAGE = "results/report.html"
RUN_LOCK = ".snakemake/levit.run.lock"
DEMANDS = {  # {(part of a result, key): what is wrong where it is false}
    ("accuracy", "within_budget"): "not within the budget of top-1 points",
    ("plan", "met"): "its plan's criterion is not met on the select split",
}
_locks, _pending_results = [], []


def stop(problem: str) -> NoReturn:
    """Print one line and end Snakemake at once: it would print an exception as a page of its own frames."""
    print(f"error: {problem}", file=sys.stderr, flush=True)
    os._exit(1)


def one_line(function: Callable) -> Callable:
    """Return the function, ending Snakemake with one line where it raises UserError."""

    @functools.wraps(function)
    def stopping(*args, **options):
        try:
            return function(*args, **options)
        except UserError as problem:
            return stop(str(problem))

    return stopping


@one_line
def check_requested(arguments: list[str], rules: Any, tables: Tables) -> None:
    """Raise UserError where a requested file under results/ names no row, or makes no sense."""
    for before, argument in zip([""] + arguments, arguments):
        path = os.path.normpath(argument)
        if before == STORAGE and argument not in ("", "none"):
            raise UserError(f"{STORAGE} leaves the records of artifacts behind: share work by `store` (docs/store.md)")
        if path.startswith("results/"):
            _check_path(path, rules, tables, optional=before in FILE_OPTIONS)


def _check_path(path, rules, tables, optional):
    _, folder, *rest = path.split("/")
    if rest and folder not in ("targets", "plugins", "history", "logs"):
        tables.row("dataset", folder)
    for rule, names in rule_facts.makers(path, rules):
        return _check_names(rule, names, rules, tables)
    if rest[:1] in (["bundles"], ["triton"]) and folder != tables.active:
        raise UserError(f"{path}: a bundle is of the active dataset, {tables.active}: set `dataset: {folder}`")
    if not optional:  # the value of an option such as --report may lie anywhere
        known = [f"results/{m}.{p}.{t}.json" for m, p, t in tables.valid(tables.names)]
        close = difflib.get_close_matches(path, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "results are results/{model}.{precision}.{target}.json"
        raise UserError(f"no rule makes {path}: {hint}")
    return None


def _check_names(rule, names, rules, tables):
    for kind in ("model", "precision", "target", "dataset", "graph"):
        if kind in names:
            tables.row(kind, names[kind])
    _check_needs(rule, names, rules, tables)
    dataset, reason = names.get("dataset"), None
    if "precision" in names and "target" in names:
        reason = tables.refusal(names.get("model"), names["precision"], names["target"], dataset)
    elif "model" in names:
        reason = tables.without_weights(names["model"], dataset)
        if "precision" in names and dataset and not reason:
            reason = tables.without_calibration(names["precision"], dataset)
    if reason:
        raise UserError(reason)
    if names.get("precision") in tables.choosing():
        for line in tables.left_out(tables.chooses_from(names["precision"])):
            print(f"skipped: {line}", file=sys.stderr)


def _check_needs(rule, names, rules, tables):
    """Raise UserError where a precision lacks what a rule, or a rule that makes one of its fixed inputs, needs."""
    wanted = rule_facts.needs(rule)
    if wanted:
        row = tables.row("precision", names["precision"])
        for key in wanted.split("."):
            row = row.get(key)
            if row in (None, "none", False):
                raise UserError(f"precision {names['precision']} has no {wanted} in config.yaml")
    from snakemake.io import is_callable

    for item in rule.input:
        for maker in [] if is_callable(item) else rule_facts.makers(str(item.apply_wildcards(names)), rules):
            _check_needs(*maker, rules, tables)


@one_line
def start(dag: Any, tables: Tables) -> None:
    """Take the lock of this folder and tidy it, then check the targets that have pending jobs; raise UserError."""
    lock(on_cluster=bool(tables.cluster))
    jobs = list(dag.needrun_jobs())
    leftovers.remove({str(path) for job in jobs for path in job.output}, tables)
    _pending_results.extend(str(path) for job in jobs if rule_facts.is_result(job.rule) for path in job.output)
    purposes: dict[str, set] = collections.defaultdict(set)
    for job in jobs:
        if rule_facts.device_purpose(job.rule):
            purposes[job.wildcards.target].add(rule_facts.device_purpose(job.rule))
    preflight.check({target: sorted(several) for target, several in sorted(purposes.items())}, tables)
    unversioned = (job.wildcards.target for job in jobs if UNVERSIONED in str(getattr(job.params, "options", "")))
    target = next(unversioned, None)
    if target:
        remedy = f"give it in targets.{target}.version, or copy the target's results/targets/{target}.json here"
        raise UserError(f"a calibration cache for {target} names TensorRT's version, which is not known here: {remedy}")
    for target in sorted({job.wildcards.target for job in jobs if rule_facts.is_timed(job.rule)}):
        _check_power_mode(target, tables.row("target", target))
    uploads.start()


def _check_power_mode(target, row):
    """Raise UserError where this board is in another power mode than its row asks for; jobs over ssh check it there."""
    mode = None if row.get("ssh") else power_modes.current()
    reason = mode and power_modes.refusal(row, mode)
    if reason:
        raise UserError(f"nothing can be timed for the target {target}: {reason}")


def lock(on_cluster: bool = False) -> None:
    """Take the lock of this folder's runs; refuse while jobs of a killed run hold theirs (core/command.py)."""
    _locks.append(_exclusive(RUN_LOCK, "another snakemake is at work in this folder"))
    if on_cluster:
        orphans.adopt()
    _exclusive(JOBS_LOCK, "a job of an earlier, killed run is still at work in this folder").close()


def _exclusive(path, problem):
    stream = open(path, "a+")  # noqa: SIM115 (open as long as this process lives)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{problem}: wait for it, or end it") from None
    return stream


def show(lines: JobLines) -> None:
    """Print the results table and what was made; exit 1 if a result misses its budget or criterion, or is none."""
    uploads.finish()
    done = subprocess.run([os.environ["LEVIT_PYTHON"], "workflow_scripts/summarize.py", "--print"], check=False)
    misses = set()
    if not done.returncode:
        lines.summarize(_pending_results, PAGE)
        results = {path: read_json(path) for path in _pending_results}
        for (part, key), problem in DEMANDS.items():
            missing = [path for path, result in results.items() if not (result.get(part) or {}).get(key, True)]
            if missing:
                print(f"error: {problem}: {', '.join(missing)}", file=sys.stderr, flush=True)
            misses.update(missing)
    if done.returncode or misses:
        atexit.register(os._exit, 1)  # once Snakemake has cleaned up
