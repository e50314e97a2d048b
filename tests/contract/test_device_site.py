"""The workflow on a device: results/ comes by rsync, the host's jobs never start there, and clocks decide nothing."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from test_gpu_target import machine

import boards
from workflow import ON_BOTH, SNAKEMAKE, SNAKEMAKE7, SNAKEMAKES, Workflow, command_python

LABEL = "LeViT-tiny.int8_qat.gpu"
RESULT = f"results/{LABEL}.json"
GRAPH = "results/digits/quantized/LeViT-tiny.int8_qat.gpu.onnx"
TARGET_JOBS = sorted(
    f"{rule} {wildcards}".strip()
    for rule, wildcards in [
        ("fingerprint", "gpu"),
        ("evaluate_engine", "accuracy.int8_qat.gpu"),
        ("build_plugin", "gpu"),
        *((rule, "int8_qat.gpu") for rule in ("build_engine", "benchmark", "run_trtexec", "assemble_result")),
    ]
)
PROFILE = ["--workflow-profile", "profiles/device"]


class Device(Workflow):
    """A checkout on a device: a GPU with TensorRT, and the device's profile."""

    def run(self, *arguments, **variables):
        return super().run(*PROFILE, *arguments, **variables)


@pytest.fixture(scope="module")
def rsync(tmp_path_factory):
    """The folder of rsync, which is on PATH as well."""
    if not boards.program("rsync"):
        pytest.skip("no rsync here: make board")
    folder = boards.started("rsync", tmp_path_factory.mktemp("rsync") / "bin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield folder


@pytest.fixture(scope="module")
def host(tmp_path_factory, rsync):
    """A host that made all that the result's jobs on a device read."""
    workflow = Workflow.fresh(tmp_path_factory.mktemp("site") / "host")
    status, output = carry(workflow, "to", "nowhere")
    assert status == 1 and "files do not exist yet: run snakemake results/digits/" in output
    needed = output.split("run snakemake ")[1].split()
    assert workflow.build(*needed)
    workflow.rewrite(GRAPH, lambda graph: graph + b" " * 150_000)  # Snakemake 7 compares what is larger by its time
    return workflow


@pytest.fixture(params=SNAKEMAKES)
def device(request, tmp_path):
    if not request.param.exists():
        pytest.skip(f"{request.param} is not there: `make test` makes it")
    workflow = Device(Workflow.fresh(tmp_path / "device").folder, snakemake=request.param)
    machine(workflow)
    return workflow


def carry(workflow, direction, place, *results):
    command = [command_python(), "workflow_scripts/sync_device.py", direction, str(place), *(results or [RESULT])]
    done = subprocess.run(
        command, cwd=workflow.folder, env=workflow.environment(), capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def copied(workflow, rsync, folder, *options):
    """Copy a host's results with plain rsync, as a user would."""
    subprocess.run([f"{rsync}/rsync", *options, "results", f"{folder}/"], cwd=workflow.folder, check=True)


@pytest.mark.parametrize("minutes", [-60 * 24 * 30, pytest.param(-5, marks=pytest.mark.slow), 5])
def test_target_jobs_alone_are_left_whatever_the_clocks_say(host, device, rsync, tmp_path, minutes):
    """`rsync -a` keeps times: those of a host whose clock is behind or ahead."""
    other = host.copy(tmp_path / "host")
    for path in other.path("results").rglob("*"):
        moment = path.stat().st_mtime + 60 * minutes
        os.utime(path, (moment, moment))
    copied(other, rsync, device.folder, "-a")
    assert device.plan(RESULT) == TARGET_JOBS
    status, output = device.run("--quiet", "--", RESULT)
    assert status == 0, output
    assert ("clock skew: " in output) == (minutes > 0)
    assert device.plan(RESULT) == []


def test_missing_artifacts_are_named_with_what_brings_them(host, device, rsync):
    copied(host, rsync, device.folder, "-a")
    device.path(GRAPH).unlink()
    device.path("results/digits/select/LeViT-tiny.torch.npy").unlink()
    status, output = device.run("--quiet", "--", RESULT)
    assert status == 1 and "Traceback" not in output
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert errors[0].startswith(
        f"error: {GRAPH} is missing here: on the host run snakemake {GRAPH} && rsync -rlcR {GRAPH}* "
    )
    assert errors[1].startswith("error: results/digits/select/LeViT-tiny.torch.npy is missing here: on the host run ")
    assert errors[2].startswith("error: a device makes none of that") and len(errors) == 3
    assert not device.path("work.log").exists(), "no job was started"


def signed(workflow):
    """Write the provenance that the replaced work did not: hashes of what is in the workflow's folder, and its rows."""
    program = "import json, sys; sys.path.insert(0, 'workflow_scripts'); import sync_device\n"
    program += "from core import files, provenance; from devices import result_jobs\n"
    program += "job = result_jobs.plan(sys.argv[1:]).result(sys.argv[1])\n"
    program += "recipe = json.loads(job.argv[job.argv.index('--recipe') + 1])\n"
    program += "inputs = {name: job.inputs[name][0] for name in sync_device.LINEAGE}\n"
    program += "found = {f'{name}_sha256': files.sha256_file(path) for name, path in inputs.items()}\n"
    program += "files.write_json(sys.argv[1], {'provenance': {**found, 'recipe': recipe}})\n"
    program += "record = provenance.read(sys.argv[1])\n"
    program += "provenance.write(sys.argv[1], {**record, 'sha256': files.sha256_file(sys.argv[1])})"
    environment = workflow.environment()
    subprocess.run([command_python(), "-c", program, RESULT], cwd=workflow.folder, check=True, env=environment)


@ON_BOTH("device")
def test_carried_there_and_back(host, device, tmp_path):
    host = host.copy(tmp_path / "host")
    status, output = carry(host, "to", device.folder)
    assert status == 0 and "11 files are there, 11 of them are new" in output, output
    assert device.plan(RESULT) == TARGET_JOBS
    assert device.build(RESULT) == [f"build_engine digits/engines/{LABEL}.engine", "build_plugin plugins/gpu.so"]
    assert "0 of them are new" in carry(host, "to", device.folder)[1] and device.plan(RESULT) == []
    signed(device)
    status, output = carry(host, "from", device.folder)
    assert status == 0 and "9 files; now: snakemake" in output, output
    assert host.plan(RESULT) == []
    host.config(lambda config: config["targets"]["gpu"].update(iterations=77))
    assert host.plan(RESULT) == ["assemble_result int8_qat.gpu", "benchmark int8_qat.gpu", "run_trtexec int8_qat.gpu"]
    status, output = carry(host, "from", device.folder)
    assert status == 1 and "was built there with another config.yaml: make both alike" in output
    host.config(lambda config: config["targets"]["gpu"].update(iterations=100))
    with host.path("workflow_scripts/runtimes/_gpu.py").open("a") as code:
        code.write("OTHER = 1\n")
    status, output = carry(host, "from", device.folder)
    assert status == 1 and " was made there by other code than is here: make both alike" in output, output


def test_what_the_host_made_anew_is_seen_and_asked_for(host, device, tmp_path):
    """However old its time: a file that arrives gets the device's own."""
    host = host.copy(tmp_path / "host")
    carry(host, "to", device.folder)
    device.build(RESULT)
    signed(device)
    host.rewrite(GRAPH, lambda graph: graph + b"another")
    os.utime(host.path(GRAPH), (1e9, 1e9))
    status, output = carry(host, "from", device.folder)
    assert status == 1 and f"{RESULT} was built there from another {GRAPH}: copy it there" in output, output
    assert not host.path("results/digits/engines").exists(), "nothing was brought"
    assert "1 of them are new" in carry(host, "to", device.folder)[1]
    assert device.plan(RESULT) == [job for job in TARGET_JOBS if job not in ("fingerprint gpu", "build_plugin gpu")]


def test_what_the_host_made_otherwise_is_named(host, device, tmp_path):
    carry(host, "to", device.folder)
    device.config(lambda config: config["precisions"]["int8_qat"]["qat"].update(epochs=7))
    status, output = device.run("--quiet", "--", RESULT)
    said = "error: results/digits/qat/LeViT-tiny.int8_qat.pth was made there with another config.yaml or other code"
    assert status == 1 and said in output, output
    assert not device.path("work.log").exists()


def test_a_place_that_is_not_there(host, tmp_path):
    (tmp_path / "file").write_text("")
    status, output = carry(host, "to", tmp_path / "file" / "folder")
    assert status == 1 and output.startswith("error: rsync failed with status "), output
    status, output = carry(host, "from", tmp_path / "nothing")
    assert status == 1 and output.startswith("error: rsync failed with status "), output


def read_there(workflow):
    """Return the paths of the host's that a device's jobs read."""
    program = "import sys; sys.path.insert(0, 'workflow_scripts'); import sync_device\n"
    program += "print(*sync_device.read_on_device(sync_device.result_jobs.plan(sys.argv[1:])))"
    command, environment = [command_python(), "-c", program, RESULT], workflow.environment()
    done = subprocess.run(command, cwd=workflow.folder, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.split()


def test_a_device_without_weights_or_torch_plans_no_job_of_the_host(host, device, tmp_path):
    """What the host recorded of its packages and of a user's file decides, not what is on the device."""
    host = host.copy(tmp_path / "host")
    torch.save({"head.weight": torch.zeros(1)}, host.path("own.pth"))
    for workflow in (host, device):
        workflow.config(lambda config: config["datasets"]["digits"].update(weights="own.pth"))
    needed = [path for path in read_there(host) if path.startswith("results/")]
    assert host.build(*needed)
    assert carry(host, "to", device.folder)[0] == 0
    device.config(lambda config: config["targets"]["gpu"].update(python=str(device.interpreter())))
    newer = device.path("newer/torch-9999.1.0.dist-info")
    newer.mkdir(parents=True)
    device.variables["PYTHONPATH"] = f"{newer.parent}:{device.variables['PYTHONPATH']}"
    assert not device.path("own.pth").exists() and device.plan(RESULT) == TARGET_JOBS
    device.build(RESULT)
    for snakemake in filter(Path.exists, (SNAKEMAKE, SNAKEMAKE7)):
        device.snakemake = snakemake
        assert device.plan(RESULT) == [], snakemake
