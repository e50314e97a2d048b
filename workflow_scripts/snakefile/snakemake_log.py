"""Snakemake's messages, of versions 7 and 9, given to the lines that a run prints (job_lines.py).

Snakemake prints its own text where it is asked for more (`--verbose`, `--printshellcmds`, `--debug-dag`,
`--show-failed-logs`, or SNAKEMAKE_OUTPUT in the environment), and in the Snakemake of a job on a cluster. The file in
.snakemake/log has it always.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any

from snakefile.job_lines import JobLines

OWN_OUTPUT = "LEVIT_SNAKEMAKE_OUTPUT"  # in the environment: what Snakemake prints by itself
OPTIONS = ("verbose", "printshellcmds", "debug_dag", "show_failed_logs")  # attributes, where Snakemake keeps options
SILENT = {"debug", "shellcmd", "progress", "resources_info", "rulegraph", "dag_debug"}
SILENT |= {"workflow_started", "job_started"}
NOISE = re.compile(
    r"\s*$|Building DAG|Select jobs|Using shell|Assuming unrestricted|Complete log|Elapsed time|Shutting down"
    r"|Removing output files of failed|Cancelling snakemake|Will exit after|Reasons:|Some jobs were triggered"
    r"|Group job |SLURM run ID|No SLURM account|Unable to guess SLURM|Guessed SLURM|Cleaning up SLURM"
    r"|Job \S+ has been submitted|No account was given"
    r"|Rules with provenance|Singularity containers|Conda environments|Rules claiming"
)
FAILED = re.compile(r"Exiting because a job execution failed|WorkflowError:\s+At least one job did not complete")
STATUS = re.compile(r"(?:returned non-zero exit (status \d+)|died with <Signals\.(\w+))")


def attach(workflow: Any) -> JobLines:
    """Print a line for each job in place of Snakemake's own text; return the lines."""
    from snakemake.logging import logger

    old = hasattr(logger, "log_handler")  # Snakemake 7
    source = logger if old else next((each for each in logger.handlers if each.name == "DefaultStreamHandler"), None)
    if source is None or os.environ.get(OWN_OUTPUT) or "--mode" in sys.argv or _asks_for_more(source, logger):
        return JobLines(open(os.devnull, "w"))  # noqa: SIM115 (open as long as this process lives)
    lines = _take_over_7(logger) if old else _take_over_9(logger, source)
    workflow.onerror(lambda log: lines.close())
    os.environ["LEVIT_LOG_ONLY"] = "1"  # jobs write to their logs, from which the lines are (core/command.py)
    return lines


def _asks_for_more(source, logger):
    holders = [source, getattr(source, "formatter", None), *getattr(source, "filters", ()), logger]
    inner = getattr(logger, "logger", logger)
    return inner.level == logging.DEBUG or any(getattr(holder, name, False) for holder in holders for name in OPTIONS)


def _take_over_9(logger, old):
    settings = old.filters[0]
    quiet = frozenset(one.name.lower() for one in settings.quiet)
    lines = JobLines(old.stream, quiet, settings.dryrun)
    logger.removeHandler(old)
    logger.addHandler(_Handler(lines))
    return lines


def _take_over_7(logger):
    stream = logger.stream_handler
    lines = JobLines(stream.stream, frozenset(logger.quiet), logger.dryrun)
    logger.logger.removeHandler(stream)  # its text goes on to the file
    logger.logger.addHandler(logging.NullHandler())  # without one, logging prints warnings itself
    logger.log_handler.append(lambda message: tell(lines, message["level"], message))
    return lines


class _Handler(logging.Handler):
    def __init__(self, lines):
        super().__init__()
        self.lines, self.ended = lines, {}

    def emit(self, record):
        event = getattr(record, "event", None)
        fields = {**vars(record), "msg": record.getMessage() if record.msg is not None else ""}
        if event == "job_error":
            fields["status"] = self.ended.pop(record.thread, "")
        status = STATUS.search(fields["msg"]) if event == "error" else None
        if status:  # of a job, whose job_error comes next from the same thread
            self.ended[record.thread] = f" ({status.group(1) or status.group(2)})"
        else:
            tell(self.lines, str(event or record.levelname.lower()), fields)


def tell(lines: JobLines, kind: str, fields: dict) -> None:
    """Give a message of Snakemake to the lines; kind: its level in Snakemake 7, its event or level in 9."""
    text = fields.get("msg") or ""
    if kind == "job_info":
        log = fields["log"][0] if fields["log"] else None
        named = {"rule": fields.get("rule_name") or fields["name"], "outputs": [str(path) for path in fields["output"]]}
        lines.start(fields["jobid"], inputs=fields["input"], log=log, reason=fields["reason"], **named)
    elif kind == "job_finished":
        lines.finish(fields["job_id"] if "job_id" in fields else fields["jobid"])
    elif kind == "job_error":
        lines.fail(fields["jobid"], fields.get("status", ""))
    elif kind == "run_info":
        lines.plan(text)
    elif kind == "rule_info":
        lines.note("\n    ".join(filter(None, [fields["name"], fields["docstring"]])))
    elif "on user request" in text:
        lines.interrupted = True
    elif text.startswith("This was a dry-run"):
        lines.close_dry_run()
    elif kind not in SILENT and not NOISE.match(text) and not (FAILED.match(text) and lines.has_failed):
        lines.note(text)
