"""What the way over ssh costs, on a board of the tests: a real sshd on this machine, in a network of its own.

    make board && python tests/bench/ssh.py [--runs 7] [--megabytes 20]

Prints a JSON line: seconds of preflight, seconds until a job's first line is here, seconds that a job takes longer than
here (goal: at most 1), and bytes of files that its first and second run send (goal: 0 for the second). The job reads
the code of benchmark.py and a file as large as an engine, and only writes two lines.
"""

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow_scripts"), str(ROOT / "tests/support")]
TOOL = 'import sys\nprint("first line", flush=True)\nopen("out.json", "w").write("{}")\n'
LOOK = "import json, sys; from devices.survey import survey; print(json.dumps(survey(json.loads(sys.argv[1]))))"


def timed(command, **options):
    """Return (seconds until the first line, seconds in all, text) of a command."""
    start, first, text = time.perf_counter(), None, ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options) as process:
        for line in process.stdout:
            first, text = first or time.perf_counter() - start, text + line
    if process.returncode:
        raise SystemExit(text)
    return first, time.perf_counter() - start, text


def prepared(folder, megabytes):
    """Write what a job reads; return the paths."""
    from snakefile.params import code

    files = code("benchmark.py", "runtimes/tensorrt.py")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "engine").write_bytes(random.Random(0).randbytes(megabytes * 1_000_000))
    (folder / "tool.py").write_text(TOOL)
    return ["tool.py", "engine", *files]


def measure(board, folder, runs, megabytes):
    place = {"name": "board", **board.row()}
    files = ["--inputs", *prepared(folder, megabytes), "--outputs", "out.json"]
    script = str(ROOT / "workflow_scripts/run_on_board.py")
    remote = [sys.executable, script, "--board", json.dumps(place), *files, "--"]
    rows = json.dumps({"board": [{"runtime": "openvino"}, ["build", "run"], place]})
    asking = [*board.entering(), sys.executable, "-c", LOOK, rows]
    there = {"cwd": folder, "env": {**os.environ, **board.variables, "PYTHONPATH": str(ROOT / "workflow_scripts")}}
    preflights = [timed(asking, **there)[1] for _ in range(runs)]
    jobs = [timed([*board.entering(), *remote, "tool.py"], **there) for _ in range(runs)]
    here = statistics.median(timed([sys.executable, "tool.py"], cwd=folder)[1] for _ in range(runs))
    sent = [int(re.search(r"sent ([\d,]+) bytes", text).group(1).replace(",", "")) for _, _, text in jobs]
    return {
        "preflight_first_seconds": round(preflights[0], 3),
        "preflight_seconds": round(statistics.median(preflights[1:]), 3),
        "first_line_seconds": round(statistics.median(first for first, _, _ in jobs[1:]), 3),
        "overhead_seconds": round(statistics.median(all_of_it for _, all_of_it, _ in jobs[1:]) - here, 3),
        "bytes_of_the_first_run": sent[0],
        "bytes_of_the_second_run": sent[1],
        "load": os.getloadavg()[0],
    }


def main():
    import boards

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=20)
    args = parser.parse_args()
    if boards.missing():
        sys.exit(f"error: no {', '.join(boards.missing())}: make board")
    board = boards.made()
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(board, Path(folder), args.runs, args.megabytes)))
    finally:
        board.stop()


if __name__ == "__main__":
    main()
