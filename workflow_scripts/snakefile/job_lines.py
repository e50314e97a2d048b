"""What a run prints: a line for each job with its warnings, then what was made, or the errors.

A job's own messages are in its log; the lines below it here are the warnings in there. On a terminal the jobs at work
have a line that is overwritten.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from typing import Any, NamedTuple, TextIO

STORED = re.compile(r"^\w+: from the store \(", re.MULTILINE)
KEPT = re.compile(r"^kept timing of ", re.MULTILINE)
WARNINGS = re.compile(r"^warning: .*", re.MULTILINE)
ERRORS = re.compile(r"^error: .*", re.MULTILINE)
TAIL = 10  # lines of a log that names no error
SHOWN = 6  # files that are named one by one
CHANGED = 60  # characters of a changed value
CLEAR = "\r\033[K"  # to the first column of a terminal, and erase the line
REASONS = [
    (re.compile(r"Missing output files: [^;]*"), "missing"),
    (re.compile(r"Incomplete output files: [^;]*"), "incomplete"),
    (re.compile(r"Set of input files has changed since last execution"), "other inputs"),
    (re.compile(r"Updated input files: "), "changed: "),
    (re.compile(r"Forced execution"), "forced"),
]
AFTER = re.compile(r"Input files updated by another job: ([^;]*)")
PARAMS = re.compile(
    r"Params have changed since last execution(?:.*? before: (.*) now: (.*?) ?(?=; Soft|$))?", re.DOTALL
)


class Job(NamedTuple):
    """A job at work: its rule, its outputs, its log or None, and the seconds since the epoch at which it began."""

    rule: str
    outputs: list
    log: Any
    began: float

    @property
    def name(self) -> str:
        """Return the rule and the artifact as columns."""
        return f"{self.rule:<17} {self.outputs[0]}" if self.outputs else self.rule

    def text(self) -> str:
        """Return what the job has logged, "" where its log is of an earlier run."""
        if self.log and os.path.exists(self.log) and os.path.getmtime(self.log) > self.began - 1:
            with open(self.log, encoding="utf-8", errors="replace") as stream:
                return stream.read()
        return ""


class JobLines:
    """The lines of one run; stream: where they go; quiet: what Snakemake's --quiet leaves out, in lower case."""

    def __init__(self, stream: TextIO, quiet: frozenset[str] = frozenset(), dry_run: bool = False) -> None:
        self.stream, self.quiet, self.dry_run = stream, quiet, dry_run
        self.began, self.total, self.stored = time.time(), 0, 0
        self.running: dict[int, Job] = {}
        self.done: list[Job] = []
        self.errors: list[str] = []
        self.makers: dict[str, str] = {}
        self.counts = ""
        self.inputs: set[str] = set()
        self.interrupted = False  # by the user: no job is to blame

    def plan(self, table: str) -> None:
        """Take the table of a run's jobs, which Snakemake prints: a rule and its count in each line."""
        counts = dict(re.findall(r"^(\w+)\s+(\d+)", table, re.MULTILINE))
        self.total = int(counts.pop("total"))
        self.counts = ", ".join(rule if count == "1" else f"{rule} {count}" for rule, count in counts.items())
        if self.dry_run and self._omits("rules"):  # then Snakemake 7 ends here
            self._print_counts()

    def start(self, jobid: int, rule: str, outputs: list, inputs: list, log: Any, reason: str) -> None:
        """Note that a job starts; in a dry run, print it with its reason."""
        self.inputs.update(inputs)
        job = Job(rule, outputs, log, time.time())
        if not self.dry_run:
            self.running[jobid] = job
            self._print()
            return
        self.makers.update(dict.fromkeys(outputs, rule))
        self._print(job.name + ("" if self._omits("reason") else f": {shortened(reason, self.makers)}"), "rules")

    def finish(self, jobid: int) -> None:
        """Print the line of a finished job, and the warnings that it has logged."""
        job = self.running.pop(jobid)
        text = job.text()
        is_stored = bool(STORED.search(text))
        self.stored += is_stored
        self.done.append(job)
        how = "from the store" if is_stored else "kept timing" if KEPT.search(text) else "made"
        self._print(f"{self._count()} {job.name}: {how} in {duration(time.time() - job.began)}", "progress")
        for line in dict.fromkeys(WARNINGS.findall(text)):
            self._print(f"  {line}")

    def fail(self, jobid: int, status: str = "") -> None:
        """Print the line of a failed job, and keep its error; status: how it ended, where that is known."""
        job = self.running.pop(jobid, None)
        if job is None or self.interrupted:
            return
        text = job.text()
        named = ERRORS.findall(text)
        where = f", its log is {job.log}" if job.log else ""
        self._print(f"{self._count(1)} {job.name}: failed after {duration(time.time() - job.began)}{where}", "progress")
        for line in () if named else text.splitlines()[-TAIL:]:
            self._print(f"  {line}")
        self.errors += named[:1] or [f"error: {job.rule} ended without a message{status}{where}"]

    @property
    def has_failed(self) -> bool:
        """Return whether `close` has said that the run failed, or will."""
        return bool(self.errors) or self.interrupted

    def close(self) -> None:
        """Print the errors of a run that failed, each once."""
        if self.interrupted:
            self._print("interrupted: the same command continues")
        elif self.errors:
            self._print(f"{len(self.done)} of {self.total} jobs are done; the same command continues", "progress")
        for line in dict.fromkeys(self.errors):
            self._print(line)

    def close_dry_run(self) -> None:
        """Print how many jobs of each rule would run."""
        if not self._omits("rules"):
            self._print_counts()

    def summarize(self, results: list[str], page: str) -> None:
        """Print what a run has made: its results, or what no job of it reads; page: the path of the report page."""
        if self._omits("progress"):
            return
        outputs = [job.outputs[0] for job in self.done if job.outputs]
        paths = results or [job.outputs[0] for job in self.done if job.outputs and self.inputs.isdisjoint(job.outputs)]
        stored = f", {self.stored} from the store" if self.stored else ""
        self._print(f"\n{_several(len(self.done), 'job')} in {duration(time.time() - self.began)}{stored}")
        self._print(f"made:  {', '.join(paths[:SHOWN])}" + (f" and {len(paths) - SHOWN} more" if paths[SHOWN:] else ""))
        if results:
            drawn = page if page in outputs else f"snakemake {page} draws one, with all that config.yaml lists"
            self._print(f"page:  {drawn}\nagain: make retime RESULT={results[0]}")

    def note(self, text: str) -> None:
        """Print what Snakemake says besides."""
        self._print(text, "all")

    def _print_counts(self):
        self._print(f"{_several(self.total, 'job')} would run: {self.counts}", "progress")

    def _omits(self, kind):
        return bool(kind) and not self.quiet.isdisjoint({kind, "all"})

    def _count(self, ahead=0):
        width = len(str(self.total))
        return f"[{len(self.done) + ahead:>{width}}/{self.total}]"

    def _print(self, text=None, kind=""):
        """Print a line, unless its kind is omitted; on a terminal, over the line of the job at work, which follows."""
        if self._omits(kind):
            return
        is_terminal = self.stream.isatty()
        block = (CLEAR if is_terminal else "") + ("" if text is None else f"{text}\n")
        if is_terminal and self.running and not self._omits("progress"):
            line = f"{self._count(1)} {list(self.running.values())[-1].name} ..."
            block += line[: shutil.get_terminal_size().columns - 1]
        self.stream.write(block)
        self.stream.flush()


def shortened(reason: str, makers: dict[str, str]) -> str:
    """Return Snakemake's reason without the job's own outputs, with rules for what they make; makers: {path: rule}."""
    for pattern, text in REASONS:
        reason = pattern.sub(text, reason)
    reason = AFTER.sub(lambda match: f"after {', '.join(_rules(match.group(1), makers))}", reason)
    return PARAMS.sub(lambda match: f"changed params{_change(*match.groups())}", reason)


def duration(seconds: float) -> str:
    """Return a time as people write it: 4.2 s, 58 s, 3:05, 1:02:03."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rules(paths, makers):
    return sorted({makers.get(path, path) for path in paths.split(", ")})


def _change(before, now):
    if before is None:
        return ""
    start = len(os.path.commonprefix([before, now]))
    start -= len(re.split(r"[\s,{]", before[:start])[-1])
    end = len(os.path.commonprefix([before[start:][::-1], now[start:][::-1]]))
    end -= len(re.split(r"[\s,}]", before[len(before) - end :])[0])
    return f": {_cut(before[start : len(before) - end])} -> {_cut(now[start : len(now) - end])}"


def _cut(text):
    return text if len(text) <= CHANGED else f"{text[:CHANGED]}..."


def _several(count, thing):
    return f"{count} {thing}" + ("" if count == 1 else "s")
