"""The lines that a run prints, and Snakemake's messages of both versions from which they are."""

import io
import os
import time

import pytest

from snakefile import job_lines, snakemake_log
from snakefile.job_lines import JobLines

TABLE = "job      count\n-----  -------\ntrain        1\ndecode_split 2\ntotal        3"
PARAMS = "Params have changed since last execution: Union of exclusive params before and now across all output: "


class Terminal(io.StringIO):
    def isatty(self):
        return True


def begun(lines, jobid=1, output="results/x.pth", log=None):
    lines.plan(TABLE)
    lines.start(jobid, "train", [output], [], log, "")
    return lines


def finished(tmp_path, text, **options):
    """Return what is printed of a job with a log."""
    log = tmp_path / "train.log"
    lines = begun(JobLines(io.StringIO(), **options), log=str(log))
    log.write_text(text)
    lines.finish(1)
    return lines.stream.getvalue().splitlines()


def test_a_finished_job_is_a_line_with_its_warnings(tmp_path):
    line, warning = finished(tmp_path, "train: from the store (0123)\nloss 1.2\nwarning: 3 images\nwarning: 3 images\n")
    assert line.split() == ["[1/3]", "train", "results/x.pth:", "from", "the", "store", "in", "0.0", "s"]
    assert warning.strip() == "warning: 3 images"
    (line,) = finished(tmp_path, "loss 1.2\n")
    assert ": made in " in line
    assert finished(tmp_path, "loss 1.2\n", quiet=frozenset({"progress"})) == []


def test_the_log_of_an_earlier_run_says_nothing(tmp_path):
    log = tmp_path / "train.log"
    log.write_text("error: of yesterday\n")
    os.utime(log, (time.time() - 60,) * 2)
    lines = begun(JobLines(io.StringIO()), log=str(log))
    lines.fail(1, " (SIGKILL)")
    assert lines.errors == [f"error: train ended without a message (SIGKILL), its log is {log}"]


def test_errors_are_printed_last_and_once(tmp_path):
    log = tmp_path / "train.log"
    lines = begun(begun(JobLines(io.StringIO()), log=str(log)), 2, "results/y.pth", str(log))
    log.write_text("loss 1.2\nerror: w.pth: no checkpoint\nTraceback\n")
    lines.fail(1)
    lines.fail(2)
    lines.close()
    printed = lines.stream.getvalue().splitlines()
    assert printed[-2:] == ["0 of 3 jobs are done; the same command continues", "error: w.pth: no checkpoint"]
    assert len(printed) == 4 and printed[0].endswith(f"its log is {log}")


def test_a_log_without_an_error_is_shown(tmp_path):
    log = tmp_path / "train.log"
    lines = begun(JobLines(io.StringIO()), log=str(log))
    log.write_text("".join(f"line {n}\n" for n in range(20)))
    lines.fail(1)
    assert [line for line in lines.stream.getvalue().splitlines() if line.startswith("  line")][0] == "  line 10"


def test_on_a_terminal_the_job_at_work_is_overwritten():
    lines = begun(begun(JobLines(Terminal())), 2, "results/y.pth")
    lines.finish(1)
    shown = lines.stream.getvalue().split(job_lines.CLEAR)
    assert shown[1].startswith("[1/3] train") and shown[1].endswith("results/x.pth ...")
    assert shown[3].endswith("made in 0.0 s\n[2/3] train             results/y.pth ...")


def test_what_was_made():
    lines = begun(JobLines(io.StringIO()), output="results/a.json")
    lines.finish(1)
    lines.summarize(["results/a.json"], "results/report.html")
    printed = lines.stream.getvalue().splitlines()[1:]
    assert printed[1].startswith("1 job in 0.0 s") and printed[2] == "made:  results/a.json"
    assert "results/report.html" in printed[3] and printed[4] == "again: make retime RESULT=results/a.json"


REASONS = {
    "Missing output files: a, b; Input files updated by another job: c, d, e": "missing; after e, train",
    "Updated input files: c; Forced execution": "changed: c; forced",
    "Params have changed since last execution": "changed params",  # Snakemake 7 says no more
    PARAMS + """before: '{"a":1,"epochs":14,"x":2}' now: '{"a":1,"epochs":15,"x":2}' """: (
        'changed params: "epochs":14 -> "epochs":15'
    ),
    PARAMS + "before: <nothing exclusive> now: 3 ": "changed params: <nothing exclusive> -> 3",
    "Code has changed since last execution": "Code has changed since last execution",
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons(reason):
    assert job_lines.shortened(reason, {"c": "train", "d": "train"}) == REASONS[reason]


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1:00"), (185, "3:05"), (3723, "1:02:03")],
)
def test_duration(seconds, text):
    assert job_lines.duration(seconds) == text


def test_what_snakemake_says_besides():
    """Its errors are printed unless a job's own are; what everyone sees in every run is not."""
    lines = begun(JobLines(io.StringIO()))
    final = "WorkflowError:\nAt least one job did not complete successfully."
    for text in ["Building DAG of jobs...", "", "Nothing to be done (all)."]:
        snakemake_log.tell(lines, "info", {"msg": text})
    snakemake_log.tell(lines, "error", {"msg": final})
    assert lines.stream.getvalue() == f"Nothing to be done (all).\n{final}\n"
    snakemake_log.tell(lines, "info", {"msg": "Terminating processes on user request, this might take some time."})
    snakemake_log.tell(lines, "error", {"msg": final})
    lines.close()
    assert lines.stream.getvalue().splitlines()[3:] == ["interrupted: the same command continues"]
