"""What this machine is to a target, and that asking costs a parse nothing."""

import json
import os
import subprocess
import sys

import pytest

import runtimes
from conftest import ROOT
from devices import probe

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
    assert in_process("from devices import probe\n" + heavy) == []


def test_identity_of_a_cpu():
    found = probe.identity({"runtime": "openvino"})
    assert found["runtime"] == "openvino" and found["version"][0].isdigit()
    assert found["architecture"] and found["device"] and isinstance(found["isa"], list)
    assert found == probe.identity({"runtime": "openvino", "threads": 5, "batches": [1]}), "rows decide nothing else"
    assert json.loads(json.dumps(found)) == found


def test_identity_does_not_change_by_itself():
    code = "from devices import probe\nprint(json.dumps(probe.identity({'runtime': 'openvino'})))"
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


ASK = "from devices import probe\nrow = {'runtime': 'tensorrt_rtx'}\nprobe.version = lambda names: '1.7'\n"


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
    in_process("from devices import probe\nprobe.identity({'runtime': 'openvino'})\nprint(0)", **environment)
    assert not (tmp_path / "calls").exists()
    in_process(ASK + "probe.identity(row), probe.unreachable(row)\nprint(0)", **environment)
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_broken_nvidia_smi(tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    program.chmod(0o755)
    found = in_process(ASK + "print(json.dumps(probe.identity(row)))", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert found["device"] is None


ASK_TRT = "from devices import probe\nrow = {'runtime': 'tensorrt'}\nprobe.version = lambda names: '8.5.2.2'\n"


def test_tensorrt_builds_only_where_there_is_a_gpu(with_gpu):
    ask = ASK_TRT + "print(json.dumps([probe.unreachable(row, 'build'), probe.unreachable(row), probe.identity(row)]))"
    build, run, found = in_process(ask, PATH="/nonexistent")
    assert build == run == "tensorrt needs an NVIDIA GPU with its driver, and there is none here" and found is None
    build, run, found = in_process(ask, **with_gpu("8.9"))
    assert build is None and run is None and found["version"] == "8.5.2.2" and found["dla"] is None


@pytest.mark.parametrize(
    "demanded, fits", [("8", True), ("8.5", True), ("8.5.2.2", True), ("8.6", False), ("8.5.22", False)]
)
def test_a_version_is_demanded_by_its_first_numbers(with_gpu, demanded, fits):
    ask = ASK_TRT + f"print(json.dumps(probe.mismatch({{**row, 'version': '{demanded}'}})))"
    reason = None if fits else f"tensorrt is 8.5.2.2 here, and the target's is {demanded}"
    assert in_process(ask, **with_gpu("8.9")) == reason


JETSONS = {
    "xavier": ("NVIDIA Jetson Xavier NX Developer Kit", "nvidia,p3449-0000+p3668-0000\0nvidia,tegra194", "7.2", 2),
    "orin": ("NVIDIA Jetson AGX Orin Developer Kit", "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234", "8.7", 2),
    "nano": ("NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234", "8.7", 0),
}


@pytest.mark.parametrize("name", JETSONS)
def test_jetson(tmp_path, monkeypatch, name):
    """A Jetson's release file and device tree, without nvidia-smi."""
    model, compatible, capability, cores = JETSONS[name]
    (tmp_path / "release").write_text("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n")
    (tmp_path / "model").write_text(model + "\0")
    (tmp_path / "compatible").write_text(compatible + "\0")
    monkeypatch.setattr(probe, "RELEASE", str(tmp_path / "release"))
    monkeypatch.setattr(probe, "TREE", str(tmp_path))
    found = probe._nvidia()
    assert (found["device"], found["compute_capability"], found["dla"]) == (model, capability, cores)
    assert found["driver"] == "L4T 35.4.1" and found["memory"].endswith(" GiB")


def test_demand_of_dla_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "facts", lambda *_: {"version": "8.5.2", "compute_capability": "8.7", "dla": 0})
    assert probe.mismatch({"runtime": "tensorrt", "dla": 2}) == "there are 0 DLA cores here, and the target has 2"


def test_another_jetpack_is_named(monkeypatch):
    facts = {"version": "10.3.0.30", "compute_capability": "8.7", "driver": "L4T 36.4.3"}
    monkeypatch.setattr(probe, "facts", lambda *_: facts)
    said = probe.mismatch({"runtime": "tensorrt", "version": "8.5"})
    assert said == "tensorrt is 10.3.0.30 here (L4T 36.4.3: JetPack 6), and the target's is 8.5"
    said = probe.mismatch({"runtime": "tensorrt", "compute_capability": "7.2"})
    assert said == "compute_capability is 8.7 here (L4T 36.4.3: JetPack 6), and the target's is 7.2"


def test_version_in_the_text_of_a_module(tmp_path, monkeypatch):
    """JetPack's TensorRT may have no distribution: its package says its version, and is not imported for that."""
    (tmp_path / "nvtrt").mkdir()
    (tmp_path / "nvtrt" / "__init__.py").write_text('__version__ = "8.5.2.2"\nraise ImportError("imported")\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert probe.version_in("nvtrt") == "8.5.2.2"
    assert probe.version_in("no_such_module_here") is None and probe.version_in(None) is None
