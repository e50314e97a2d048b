"""Try what goes wrong: kills, configurations, checkpoints, images, staleness. `make fuzz` runs it; seeds are fixed.

Prints for each kind how often one line answered, and tracebacks, hangs and silent acceptances; exits 1 where one of the
last three is not 0. Lists that the tests have are taken from there: pytest runs them, and its failures are counted.
"""

import argparse
import collections
import concurrent.futures
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "support"), str(TESTS.parent / "workflow_scripts")]

WRONG = ("traceback", "hang", "accepted", "differs")  # what must not be
FROM_TESTS = {  # kind: (what pytest runs, the least number of cases)
    "configurations": (["tests/configuration/test_configurations.py", "-k", "wrong_value or wrong_text"], 100),
    "checkpoints": (
        ["tests/model/test_checkpoint.py", "-k", "no_checkpoint"],
        50,
    ),
    "images": (["tests/data/test_left_out.py", "tests/data/test_index.py", "tests/data/test_layouts.py"], 50),
    "staleness": (["tests/contract", "-k", "test_change_costs_exactly"], 90),
    "store": (["tests/core/test_store.py"], 50),
}


def from_tests(arguments, least):
    """Run tests; return (counts, problems): a case that does not give its right value is counted by what it gave."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report.name}",
            *arguments,
        ]
        subprocess.run(command, cwd=TESTS.parent, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        cases = list(ElementTree.parse(report.name).getroot().iter("testcase"))
    counts, problems = collections.Counter(), []
    for case in cases:
        failure = next((case.find(kind) for kind in ("failure", "error") if case.find(kind) is not None), None)
        if case.find("skipped") is not None:
            counts["skipped"] += 1
        elif failure is None:
            counts["right answers"] += 1
        else:
            counts[_kind(failure.text or "")] += 1
            problems.append(f"{case.get('name')}: {failure.get('message', '')[:200]}")
    if counts["right answers"] + len(problems) < least:
        problems.append(f"{counts['right answers']} cases, fewer than {least}")
    return counts, problems


def _kind(text):
    """Return what a failed case gave: a silent acceptance where a refusal was wanted, else a traceback, a hang."""
    if "DID NOT RAISE" in text:
        return "accepted"
    return "hang" if "TimeoutExpired" in text else "traceback" if re.search("Traceback", text) else "differs"


def tools(folder):
    """Give every command line bad inputs of every kind; return (counts, problems)."""
    from test_tools import ANSWERS

    from fuzz import tools as lines
    from workflow import Workflow

    workflow = Workflow.fresh(folder / "run")
    planned, bad = lines.commands(workflow.folder), lines.bad_files(folder / "bad")
    jobs = [(script, arguments, kind) for script, arguments in sorted(planned.items()) for kind in bad]

    def one(job):
        script, arguments, kind = job
        output = folder / f"{script}.{kind.replace(' ', '-')}"
        output.mkdir()
        if not lines.files_of(script)[0] or script in ANSWERS:
            return None
        status, stderr = lines.run(script, lines.with_inputs(script, arguments, bad[kind], output), workflow.folder)
        return f"{script} given {kind}", lines.verdict(status, stderr, output), stderr[-200:]

    counts, problems = collections.Counter(), []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, wrong, said in filter(None, pool.map(one, jobs)):
            counts[wrong or "one line"] += 1
            problems += [f"{name}: {wrong}: {said}"] if wrong else []
    return counts, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help="kills, tools, or one of: " + ", ".join(FROM_TESTS))
    parser.add_argument("--kills", type=int, default=25)
    args = parser.parse_args()
    wrong = False
    for kind in args.kinds or ["kills", "tools", *FROM_TESTS]:
        with tempfile.TemporaryDirectory(prefix="levit-fuzz-") as folder:
            if kind == "kills":
                from fuzz import kills

                counts, problems = kills.run(Path(folder), args.kills)
            else:
                counts, problems = tools(Path(folder)) if kind == "tools" else from_tests(*FROM_TESTS[kind])
        shown = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
        print(f"{kind}: {shown}; " + ", ".join(f"{counts.get(name, 0)} {name}" for name in WRONG), flush=True)
        for problem in problems:
            print(f"  {' '.join(problem.split())}", flush=True)
        wrong = wrong or bool(problems)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
