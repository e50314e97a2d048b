"""Say what this machine, or a target's board, has of what jobs need, and write a small archive for a bug report.

    python3 workflow_scripts/doctor.py              this machine, and every board that config.yaml reaches over ssh
    python3 workflow_scripts/doctor.py xavier       one target: its board, or this machine as that target

The exit status is 1 where something is missing. The archive has no names, keys or addresses.
"""

import sys

if sys.version_info < (3, 8):  # noqa: UP036 (JetPack 4 has 3.6, which can parse this file)
    sys.exit("error: Python 3.8 or later is needed, as JetPack 5.1 has it, and this is " + sys.version.split()[0])

import argparse
import getpass
import io
import json
import os
import platform
import re
import subprocess
import tarfile
import time

from configuration import checks
from core.files import UserError, canonical, one_line, replacing
from core.sources import ROOT
from devices import rack, reach, survey
from measure import checkup
from measure.checkup import MISSING, NOTE, OK, finding

REPOSITORY = ROOT.parent
CONNECTION = "connection"  # the topic of what ssh says, which may name hosts
SKEW = 2  # seconds that a board's clock may differ without a note
CLOCK = "sudo timedatectl set-ntp true; results carry dates, and nothing else depends on clocks"
PATH = re.compile(r"(?<![\w.~])/(?!(?:usr|opt|etc|sys|proc|dev|lib)/)[^\s,:;'\"`)]+")  # but those of the system
EXAMINE = "import sys, json; sys.path.insert(0, sys.argv[1]); from measure import checkup\n"
EXAMINE += "print(json.dumps(checkup.examine(**json.loads(sys.argv[2]))))"


def pins() -> dict:
    """Return {name of a file of envs/: its text}."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "envs").glob("*.txt"))}


def examinations(names: list) -> dict:
    """Return {machine: its examination}, of the targets of some names, or of all and this machine; raise UserError."""
    try:
        tables = checks.read()
    except ImportError:
        if names:
            raise UserError("PyYAML, which reads config.yaml, is not installed: see without a target's name") from None
        problem = finding("config.yaml", NOTE, "not compared: PyYAML, which reads it, is not installed")
        answer = checkup.examine({}, pins(), is_asked=True)
        return {"this machine": {**answer, "findings": [*answer["findings"], problem]}}
    rows = {name: tables.row("target", name) for name in names or tables.names("target")}
    boards = {name: reach.board(tables, name) for name in rows}
    machines = _here({name: row for name, row in rows.items() if not boards[name]}, bool(names))
    for name, board in boards.items():
        for each in rack.rows(board) if board else ():
            machines[each["name"]] = _board(name, rows[name], each)
    return machines


def _here(rows, is_asked):
    """Return {interpreter's machine: examination} of rows whose jobs run here; a row may name its interpreter."""
    pythons = sorted({row.get("python") or "" for row in rows.values()} | ({""} if not is_asked else set()))
    interpreters = {}
    for python in pythons:
        of_python = {name: row for name, row in rows.items() if (row.get("python") or "") == python}
        request = {"rows": of_python, "pins": pins(), "is_asked": is_asked or bool(python)}
        interpreters[f"this machine{python and f', {python}'}"] = _of_interpreter(python, request)
    return interpreters


def _of_interpreter(python, request):
    if not python:
        answer = checkup.examine(**request)
        return {**answer, "findings": [*answer["findings"], *_clock_of_checkout()]}
    command = [python, "-c", EXAMINE, str(ROOT), canonical(request)]
    try:
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode())
    except (OSError, subprocess.SubprocessError) as error:
        return {"findings": [finding("Python", MISSING, f"{python} does not run: {error}", "correct `python`")]}


def _clock_of_checkout():
    """Return a finding where this machine's clock is behind the files of this project, which were written before."""
    behind = (REPOSITORY / "workflow_scripts").stat().st_mtime - time.time()
    return [finding("clock", NOTE, f"{behind:.0f} s behind this checkout's files", CLOCK)] if behind > SKEW else []


def _board(name, row, board_row):
    """Return the examination of a target's board; a connection that fails is a finding."""
    missing = survey.missing_programs()
    if missing:
        return {"findings": [finding(p, MISSING, "not installed here", f"sudo apt-get install {p}") for p in missing]}
    try:
        answer = survey.examine(name, row, board_row, pins())
    except UserError as problem:
        return {"findings": [finding(CONNECTION, MISSING, str(problem), "docs/remote.md")]}
    skew = answer["skew"]
    amount = f"{abs(skew):.0f} s" if abs(skew) < 600 else f"{abs(skew) / 3600:.1f} h"
    text = f"{amount} {'ahead of' if skew > 0 else 'behind'} this machine's"
    clock = finding("clock", NOTE, text, CLOCK) if abs(skew) > SKEW else finding("clock", OK, "as this machine's")
    return {**answer, "findings": [finding(CONNECTION, OK, "ssh reaches the board"), clock, *answer["findings"]]}


def lines(machines: dict) -> list:
    """Return the lines of a report: a heading for each machine, then a line for each finding."""
    width = max(len(each["topic"]) for answer in machines.values() for each in answer["findings"])
    listed = []
    for machine, answer in machines.items():
        listed.append(f"{machine}:")
        for each in answer["findings"]:
            remedy = f"; remedy: {each['remedy']}" if each["remedy"] else ""
            listed.append(f"  {each['state']:<8} {each['topic']:<{width}}  {each['text']}{remedy}")
    return listed


def anonymous(value: dict) -> dict:
    """Return a JSON value without what may say whose machine it is: paths, this user's and this machine's name."""
    words = {getpass.getuser(), platform.node(), os.path.basename(os.path.expanduser("~"))} - {"root", ""}
    text = PATH.sub("PATH", json.dumps(value, sort_keys=True, ensure_ascii=False))
    for word in words:
        text = re.sub(rf"\b{re.escape(word)}\b", "NAME", text)
    return json.loads(text)


def public(machines: dict) -> dict:
    """Return examinations as a bug report may carry them."""
    report = {}
    for number, (machine, answer) in enumerate(machines.items()):
        findings = [{**each, "text": "-"} if each["topic"] == CONNECTION else each for each in answer["findings"]]
        name = machine if "," not in machine else f"this machine, interpreter {number}"
        report[name] = {"findings": findings, "identities": answer.get("identities", {})}
    return anonymous(report)


def write_archive(path: str, machines: dict) -> None:
    """Write examinations as report.txt and report.json into a tar archive."""
    report = public(machines)
    texts = {"report.txt": "\n".join(lines(report)) + "\n", "report.json": json.dumps(report, indent=2) + "\n"}
    with replacing(path) as partial, tarfile.open(partial, "w:gz") as archive:
        for name, text in texts.items():
            entry = tarfile.TarInfo(f"doctor/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


def main() -> None:
    """Examine, print, write the archive; exit with status 1 where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="rows of `targets`; by default, this machine and every board")
    parser.add_argument("--archive", default="doctor.tar.gz", help="for a bug report (doctor.tar.gz)")
    args = parser.parse_args()
    machines = examinations(args.targets)
    print("\n".join(lines(machines)), flush=True)
    write_archive(args.archive, machines)
    states = [each["state"] for answer in machines.values() for each in answer["findings"]]
    count = states.count(MISSING)
    print(f"{args.archive} has this without names or addresses, for a bug report")
    sys.exit(f"error: {count} missing: the lines above have the remedies" if count else 0)


if __name__ == "__main__":
    one_line(main)
