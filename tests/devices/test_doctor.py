"""doctor.py on this machine and on a board over a real sshd that looks like a Xavier NX with JetPack 5.1."""

import json
import re
import subprocess
import sys
import tarfile

import pytest

import boards
import doctor
from conftest import ROOT
from jetsons import XAVIER_NX, put
from workflow import Workflow

MODEL, CHIP = "NVIDIA Jetson Xavier NX Developer Kit\0", "nvidia,p3449-0000+p3668-0000\0nvidia,tegra194\0"
RELEASE = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n"


def xavier(folder):
    """Write the files of a Xavier NX below a folder; return the environment by which a process sees them."""
    root = XAVIER_NX.build(folder / "root")
    put(root / "etc/nv_tegra_release", RELEASE)
    put(root / "proc/device-tree/model", MODEL)
    put(root / "proc/device-tree/compatible", CHIP)
    for name, hertz in (("min", 114_750_000), ("max", 1_109_250_000)):
        put(root / f"sys/class/devfreq/{XAVIER_NX.gpu}/{name}_freq", f"{hertz}\n")
    put(root / "sys/class/thermal/cooling_device2/cur_state", "1\n")
    put(folder / "packages/tensorrt/__init__.py", '__version__ = "8.5.2.2"\n')
    return {"LEVIT_SYSTEM": str(root), "PYTHONPATH": str(folder / "packages")}


def said(text):
    """Return {topic: [(state, text and remedy)]} of a report's lines."""
    topics = {}
    for state, topic, rest in re.findall(r"^  (\w+) +(\w+(?: \w+)*)  +(.*)$", text, re.MULTILINE):
        topics.setdefault(topic, []).append((state, rest))
    return topics


def lab(config, board, more):
    """Return the row of Xavier's, of any architecture, on a board."""
    row = {key: value for key, value in config["targets"]["xavier"].items() if key != "architecture"}
    return {**row, **board.row(), **more}


def examine(folder, board, **row):
    """Run doctor.py for a target on a board; return (status, {topic: lines}, its stderr)."""
    workflow = Workflow.fresh(folder)
    workflow.config(lambda config: config["targets"].update(lab=lab(config, board, row)))
    command = [*board.entering(), sys.executable, str(ROOT / "workflow_scripts/doctor.py"), "lab"]
    environment = {**workflow.environment(), **board.variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, said(done.stdout), done.stderr


@pytest.fixture
def board():
    """Return a function that makes a board, with programs in its PATH."""
    made = []

    def make(environment, **programs):
        made.append(boards.made(environment=environment))
        for name, text in programs.items():
            put(made[-1].folder / "bin" / name, f"#!/bin/sh\ncat <<'END'\n{text}END\n")
            (made[-1].folder / "bin" / name).chmod(0o755)
        return made[-1]

    yield make
    for one in made:
        one.stop()


needs_sshd = pytest.mark.skipif(bool(boards.missing()), reason=f"no {boards.missing()}: `make board` brings them")


@needs_sshd
def test_a_board_that_is_as_its_row_says(board, tmp_path):
    xavier_nx = board(xavier(tmp_path), nvpmodel=XAVIER_NX.query(), trtexec="")
    status, found, errors = examine(tmp_path / "host", xavier_nx, power_mode="15W_6CORE")
    assert found["connection"] == [("ok", "ssh reaches the board")] and found["clock"][0][0] == "ok"
    assert found["target lab"] == [("ok", "tensorrt 8.5.2.2 on NVIDIA Jetson Xavier NX Developer Kit")], errors
    assert found["GPU"][0][1].startswith("NVIDIA Jetson Xavier NX Developer Kit, compute capability 7.2, L4T 35.4.1")
    assert found["power mode"][0] == ("ok", f"MODE_15W_6CORE of {', '.join(XAVIER_NX.modes)}")
    assert found["power rails"] == [("ok", "VDD_IN, VDD_CPU_GPU_CV, VDD_SOC; the module draws 5.1 W")]
    assert found["trtexec"] == [("ok", str(xavier_nx.folder / "bin/trtexec"))]
    assert found["import tensorrt"] == [("ok", "works")]
    assert found["clocks"][0][1].startswith("gpu 1109 MHz, cpu 1420 MHz")
    assert "115 to 1109 MHz" in found["clocks"][1][1]
    assert found["clocks"][1][1].endswith("sudo jetson_clocks, until the next start")
    assert found["throttling"][0][0] == "note" and "gpu-throttle-alert: 1" in found["throttling"][0][1]
    missing = {topic for topic, lines in found.items() for state, _ in lines if state == "missing"}
    assert missing <= {"packages", "CUDA"}, "this machine has neither JetPack's CUDA nor its Python packages"
    assert status == (1 if missing else 0)


@needs_sshd
def test_a_board_that_lacks_things(board, tmp_path):
    library = next(boards.UNPACKED.rglob("libfaketime.so.1"), None)
    late = {"LD_PRELOAD": str(library), "FAKETIME": "-3d"} if library else {}
    environment = {**xavier(tmp_path), **late, "PATH": "/nonexistent"}
    put(tmp_path / "packages/tensorrt/__init__.py", '__version__ = "8.6.1"\nraise ImportError("no libnvinfer.so.8")\n')
    status, found, errors = examine(tmp_path / "host", board(environment), power_mode="20W_6CORE", version="8.6")
    assert status == 1 and re.search(r"^error: \d+ missing: the lines above have the remedies$", errors, re.MULTILINE)
    assert found["rsync"] == [("missing", "absent; remedy: sudo apt-get install rsync")]
    assert found["trtexec"][0] == (
        "note",
        "not installed: engines are timed without it; remedy: sudo apt-get install libnvinfer-bin",
    )
    assert found["import tensorrt"][0][1].startswith("ImportError: no libnvinfer.so.8; remedy: ")
    assert found["target lab"][1][1].endswith("remedy: sudo nvpmodel -m 8, or other_power_mode: mark")
    assert "the power mode is MODE_15W_6CORE here" in found["target lab"][1][1], "its status file says so"
    if late:
        assert found["clock"][0][1].startswith("72.0 h behind this machine's; remedy: sudo timedatectl")


@needs_sshd
def test_another_board_than_the_rows(board, tmp_path):
    status, found, _ = examine(tmp_path / "host", board(xavier(tmp_path)), compute_capability="8.7")
    assert status == 1 and found["target lab"][0][0] == "missing"
    assert "compute_capability is 7.2 here (L4T 35.4.1: JetPack 5)" in found["target lab"][0][1]
    assert "remedy: correct the row lab of `targets`" in found["target lab"][0][1]


@needs_sshd
def test_a_board_that_does_not_answer(board, tmp_path):
    gone = board({})
    status, found, _ = examine(tmp_path / "host", gone, ssh="nobody@nowhere.invalid")
    assert status == 1 and found["connection"][0][0] == "missing" and "nowhere.invalid" in found["connection"][0][1]
    with tarfile.open(tmp_path / "host/doctor.tar.gz") as archive:
        text = "".join(archive.extractfile(member).read().decode() for member in archive)
    assert "nowhere" not in text and "docs/remote.md" in text


def test_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(Workflow.fresh(tmp_path / "run").folder)
    found = doctor.examinations(["ort"])
    told = said("\n".join(doctor.lines(found)))
    assert told["target ort"][0][0] == told["import onnxruntime"][0][0] == told["Python"][0][0] == "ok"
    monkeypatch.setattr(sys, "argv", ["doctor.py", "--archive", "a.tar.gz", "ort"])
    with pytest.raises(SystemExit):
        doctor.main()
    with tarfile.open("a.tar.gz") as archive:
        assert {(member.uname, member.gname, member.mtime) for member in archive} == {("", "", 0)}
        report = json.load(archive.extractfile("doctor/report.json"))
        text = archive.extractfile("doctor/report.txt").read().decode()
    assert report["this machine"]["identities"]["ort"]["runtime"] == "onnxruntime"
    assert sys.executable not in text and "target ort" in text


def test_a_target_that_is_not_here_is_missing_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(Workflow.fresh(tmp_path / "run").folder)
    monkeypatch.setattr(doctor.checkup, "_importing", lambda runtime: doctor.finding(runtime, "ok", "works"))
    asked, unasked = (said("\n".join(doctor.lines(doctor.examinations(names)))) for names in (["xavier"], []))
    assert asked["target xavier"][0][0] == "missing" and unasked["target xavier"][0][0] == "note"
    assert unasked["target cpu"][0][0] == "ok" and "`ssh` in the row: docs/remote.md" in asked["target xavier"][0][1]
    with pytest.raises(doctor.UserError, match="unknown target xaver: did you mean xavier"):
        doctor.examinations(["xaver"])


def test_a_row_with_an_interpreter_of_its_own(tmp_path, monkeypatch):
    workflow = Workflow.fresh(tmp_path / "run")
    rows = {"other": sys.executable, "gone": "/nonexistent/python3"}
    change = {
        name: {"runtime": "onnxruntime", "graph": "ort", "precisions": ["fp32"], "python": path}
        for name, path in rows.items()
    }
    workflow.config(lambda config: config["targets"].update(change))
    monkeypatch.chdir(workflow.folder)
    found = doctor.examinations(["other", "gone"])
    assert found["this machine, /nonexistent/python3"]["findings"][0]["state"] == "missing"
    topics = {each["topic"]: each["state"] for each in found[f"this machine, {sys.executable}"]["findings"]}
    assert topics["target other"] == "ok" and topics["import onnxruntime"] == "ok"
    assert "/nonexistent" not in json.dumps(doctor.public(found))


def test_nothing_private_is_left(monkeypatch):
    monkeypatch.setattr(doctor.getpass, "getuser", lambda: "jürgen")
    monkeypatch.setattr(doctor.platform, "node", lambda: "lab-7")
    text = "Python 3.8.10, /home/jürgen/venv/bin/python on lab-7; /usr/bin/python3, TRT 8.5.2.2; jürgen's /srv/x: y"
    expected = "Python 3.8.10, PATH on NAME; /usr/bin/python3, TRT 8.5.2.2; NAME's PATH: y"
    assert doctor.anonymous({"text": text}) == {"text": expected}


def test_without_a_reader_of_config_the_machine_alone_is_examined(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    findings = doctor.examinations([])["this machine"]["findings"]
    assert findings[-1]["topic"] == "config.yaml" and findings[0]["topic"] == "Python"
    with pytest.raises(doctor.UserError, match="PyYAML, which reads config.yaml"):
        doctor.examinations(["cpu"])
