"""What this machine is to a target, and that asking costs a parse nothing."""

import json
import os
import subprocess
import sys

import pytest

import probe
import runtimes
from conftest import ROOT

SMI = """#!/bin/sh
echo "$@" >> "{log}"
echo "NVIDIA GeForce RTX 4090, {capability}, 24564 MiB, 565.57.01"
"""


def in_process(code, **environment):
    """Run code with probe importable and return its JSON output."""
    command = [sys.executable, "-c", "import sys, json; sys.path.insert(0, sys.argv[1])\n" + code]
    command.append(str(ROOT / "workflow_scripts"))
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return json.loads(done.stdout)


@pytest.fixture
def with_gpu(tmp_path):
    """An environment whose nvidia-smi says that there is a GPU."""

    def make(capability):
        program = tmp_path / "nvidia-smi"
        program.write_text(SMI.format(log=tmp_path / "calls", capability=capability))
        program.chmod(0o755)
        return {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    return make


def test_imports_the_standard_library_alone():
    heavy = (
        "print(json.dumps([m for m in ('numpy', 'openvino', 'onnxruntime', 'importlib.metadata') if m in sys.modules]))"
    )
    assert in_process("import probe\n" + heavy) == []


def test_import_is_fast():
    code = "import subprocess, shutil, platform, time\nt = time.perf_counter()\nimport probe\n"
    best = min(in_process(code + "print(1000 * (time.perf_counter() - t))") for _ in range(5))
    assert best < 10, f"{best:.1f} ms"


def test_identity_of_a_cpu():
    found = probe.identity({"runtime": "openvino"})
    assert found["runtime"] == "openvino" and found["version"][0].isdigit()
    assert found["architecture"] and found["device"] and isinstance(found["isa"], list)
    assert found == probe.identity({"runtime": "openvino", "threads": 5, "batches": [1]}), "rows decide nothing else"
    assert json.loads(json.dumps(found)) == found


def test_identity_does_not_change_by_itself():
    code = "import probe\nprint(json.dumps(probe.identity({'runtime': 'openvino'})))"
    assert in_process(code) == in_process(code) == probe.identity({"runtime": "openvino"})


def test_every_runtime_has_a_row():
    assert sorted(probe.RUNTIMES) == runtimes.names()


@pytest.mark.parametrize("name", runtimes.names())
def test_fingerprint_says_what_the_probe_says(name):
    if probe.facts(name)["version"] is None:
        pytest.skip(f"{name} is not installed")
    found = runtimes.load(name).fingerprint()
    assert {key: found[key] for key in probe.facts(name)} == probe.facts(name)


def test_other_machines():
    assert probe.identity({"runtime": "openvino", "architecture": "riscv64"}) is None
    assert "the target's is riscv64" in probe.unreachable({"runtime": "openvino", "architecture": "riscv64"})
    assert "runtime tensorrt9 is unknown" in probe.unreachable({"runtime": "tensorrt9"})
    assert probe.unreachable({"runtime": "openvino"}) is None


def test_runtime_that_is_not_installed(monkeypatch):
    row = probe.Runtime(("no-such-distribution-here",), "cpu", None)
    monkeypatch.setitem(probe.RUNTIMES, "absent", row)
    assert probe.identity({"runtime": "absent"}) is None
    assert "no-such-distribution-here is not installed in" in probe.unreachable({"runtime": "absent"})


ASK = "import probe\nrow = {'runtime': 'tensorrt_rtx'}\nprobe.version = lambda names: '1.7'\n"


def test_rtx_builds_without_a_gpu_and_runs_on_one(with_gpu):
    ask = ASK + "print(json.dumps([probe.unreachable(row, 'build'), probe.unreachable(row), probe.identity(row)]))"
    build, run, found = in_process(ask, PATH="/nonexistent")
    assert build is None and run.endswith("and there is none here") and found["device"] is None
    build, run, found = in_process(ask, **with_gpu("8.9"))
    assert build is None and run is None
    assert (found["device"], found["compute_capability"]) == ("NVIDIA GeForce RTX 4090", "8.9")
    assert found["driver"] == "565.57.01" and found["memory"] == "24564 MiB"
    _, run, _ = in_process(ask, **with_gpu("9.0"))
    assert run.endswith("and NVIDIA GeForce RTX 4090 has 9.0")


def test_demands_of_a_row(with_gpu):
    ask = ASK + "print(json.dumps(probe.mismatch({**row, 'compute_capability': '7.2'})))"
    assert in_process(ask, **with_gpu("8.9")) == "compute_capability is 8.9 here, and the target's is 7.2"
    assert in_process(ask, **with_gpu("7.2")) is None


def test_gpu_is_asked_once_and_only_for_gpu_runtimes(with_gpu, tmp_path):
    environment = with_gpu("8.9")
    in_process("import probe\nprobe.identity({'runtime': 'openvino'})\nprint(0)", **environment)
    assert not (tmp_path / "calls").exists()
    in_process(ASK + "probe.identity(row), probe.unreachable(row)\nprint(0)", **environment)
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_broken_nvidia_smi(tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    program.chmod(0o755)
    found = in_process(ASK + "print(json.dumps(probe.identity(row)))", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert found["device"] is None
