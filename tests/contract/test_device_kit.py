"""A kit's way to a device and back: Snakemake takes what was copied in as built, and still sees what becomes stale."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from workflow import Workflow, command_python

RESULT = "results/LeViT-tiny.fp32.gpu.json"
KIT = ["workflow_scripts/device_kit.py"]


def kit(folder, environment, *arguments):
    done = subprocess.run(
        [command_python(), *KIT, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def travelled(tmp_path_factory):
    """A workflow, and the folder on a device where its kit was run."""
    folder = tmp_path_factory.mktemp("kit")
    workflow = Workflow.fresh(folder / "host")
    here = workflow.environment()
    status, output = kit(workflow.folder, here, "pack", RESULT)
    assert status == 1 and "files do not exist yet: run snakemake results/digits/" in output
    status, needs = kit(workflow.folder, here, "needs", RESULT)
    workflow.build(*needs.split())
    status, output = kit(workflow.folder, here, "pack", RESULT)
    assert status == 0, output
    device = folder / "device"
    with tarfile.open(workflow.path("kit.tar")) as archive:
        archive.extractall(device, filter="data")
    status, output = kit(device, here, "run")
    assert status == 0, output
    return workflow, device


def test_there_and_back(travelled, tmp_path):
    workflow, device = travelled
    workflow = workflow.copy(tmp_path / "host")
    assert "build_engine fp32.gpu" in workflow.plan(RESULT)
    status, output = kit(workflow.folder, workflow.environment(), "unpack", str(device / "outputs.tar"))
    assert status == 0, output
    assert workflow.plan(RESULT) == ["assemble_result fp32.gpu"]
    workflow.build(RESULT)
    assert workflow.plan(RESULT) == []
    workflow.config(lambda config: config["targets"]["gpu"].update(iterations=77))
    assert workflow.plan(RESULT) == ["assemble_result fp32.gpu", "benchmark fp32.gpu", "run_trtexec fp32.gpu"]
    workflow.config(lambda config: config["targets"]["gpu"].update(workspace_mb=77))
    assert "build_engine fp32.gpu" in workflow.plan(RESULT)


def test_a_choice_takes_its_candidates_along(tmp_path):
    """There and back with all engines that `auto` chooses from, scored on both splits: only merging is left to do."""
    workflow, auto = Workflow.fresh(tmp_path / "host"), "results/LeViT-tiny.auto.gpu.json"
    environment, names = workflow.environment(), [f"{p}.gpu" for p in ("fp16", "fp32", "int8_ptq", "int8_qat")]
    workflow.build(*kit(workflow.folder, environment, "needs", auto)[1].split())
    assert kit(workflow.folder, environment, "pack", auto)[0] == 0
    with tarfile.open(workflow.path("kit.tar")) as archive:
        archive.extractall(tmp_path / "device", filter="data")
    status, output = kit(tmp_path / "device", environment, "run")
    assert status == 0, output
    for folder in ("accuracy", "select"):
        made = sorted(path.name for path in (tmp_path / "device/results/digits" / folder).glob("*.gpu.json"))
        assert made == [f"LeViT-tiny.{name}.json" for name in names]
    status, output = kit(workflow.folder, environment, "unpack", str(tmp_path / "device/outputs.tar"))
    assert status == 0, output
    left = workflow.plan(auto)
    assert not [job for job in left if "gpu" in job and job.split()[0] not in ("assemble_result", "choose_precision")]
    assert "choose_precision auto.gpu" in left and {f"assemble_result {name}" for name in names} <= set(left)


def test_a_second_run_repeats_nothing(travelled):
    workflow, device = travelled
    log = workflow.path("work.log")
    log.unlink(missing_ok=True)
    engine = next(device.rglob("*.engine"))
    before = engine.stat().st_mtime_ns
    assert kit(device, workflow.environment(), "run")[0] == 0
    assert engine.stat().st_mtime_ns == before and not log.exists()


@pytest.mark.parametrize("changed", ["recipe", "input", "code"])
def test_a_later_kit_in_the_same_folder_is_run_anew_where_it_differs(travelled, tmp_path, changed):
    workflow, device = travelled[0].copy(tmp_path / "host"), tmp_path / "device"
    shutil.copytree(travelled[1], device)
    if changed == "recipe":
        workflow.config(lambda config: config["targets"]["gpu"].update(workspace_mb=77))
    elif changed == "input":
        workflow.config(lambda config: config["datasets"]["digits"]["training"].update(learning_rate=0.002))
    else:
        with workflow.path("workflow_scripts/benchmark.py").open("a") as code:
            code.write("OTHER = 1\n")
    workflow.build(*kit(workflow.folder, workflow.environment(), "needs", RESULT)[1].split())
    if changed == "code":
        status, output = kit(workflow.folder, workflow.environment(), "unpack", str(device / "outputs.tar"))
        assert status == 1 and "config.yaml or the code has changed since the kit was packed" in output
    assert kit(workflow.folder, workflow.environment(), "pack", RESULT)[0] == 0
    with tarfile.open(workflow.path("kit.tar")) as archive:
        archive.extractall(device, filter="data")
    status, output = kit(device, workflow.environment(), "run")
    made = [line.split(".py: ")[0] for line in output.splitlines() if ".py: " in line]
    assert status == 0 and ("benchmark" in made) and ("build_engine" in made) == (changed != "code"), output
    assert kit(device, workflow.environment(), "run")[1].count(".py: ") == 0


def test_a_target_without_trtexec_has_no_job_for_it(travelled, tmp_path):
    made = [path.name for path in travelled[1].rglob("trtexec/*.json")]
    assert made == ["LeViT-tiny.fp32.gpu.json"]
    workflow = travelled[0].copy(tmp_path / "host")
    workflow.config(lambda config: config["targets"]["gpu"].update(trtexec=False))
    status, output = kit(workflow.folder, workflow.environment(), "pack", RESULT)
    assert status == 0 and "kit.tar: 4 jobs" in output
    with tarfile.open(workflow.path("kit.tar")) as archive:
        assert "workflow_scripts/run_trtexec.py" not in archive.getnames()


@pytest.mark.parametrize("changed", ["recipe", "input"])
def test_what_was_made_of_something_else_is_refused(travelled, tmp_path, changed):
    workflow, device = travelled
    workflow = workflow.copy(tmp_path / "host")
    if changed == "recipe":
        workflow.config(lambda config: config["targets"]["gpu"].update(workspace_mb=77))
    else:
        workflow.path("results/digits/clean/LeViT-tiny.gpu.onnx").write_text("another")
    status, output = kit(workflow.folder, workflow.environment(), "unpack", str(device / "outputs.tar"))
    assert status == 1 and output.startswith("error: ") and output.strip().endswith("pack another")
    assert not workflow.path("results/digits/engines").exists()


def test_records_travel_there_and_back(travelled, tmp_path):
    workflow, device = travelled
    workflow = workflow.copy(tmp_path / "host")
    graph = "results/digits/clean/LeViT-tiny.gpu.onnx.provenance"
    assert (device / graph).read_bytes() == workflow.path(graph).read_bytes()
    assert kit(workflow.folder, workflow.environment(), "unpack", str(device / "outputs.tar"))[0] == 0
    engine = f"results/digits/engines/{RESULT[8:-5]}.engine.provenance"
    assert (device / engine).read_bytes() == workflow.path(engine).read_bytes()
    assert not list(workflow.path(".cache").glob("copied-*"))


def test_a_damaged_input_is_not_packed_and_a_damaged_output_is_not_copied_in(travelled, tmp_path):
    workflow, device = travelled
    workflow = workflow.copy(tmp_path / "host")
    with workflow.path("results/digits/clean/LeViT-tiny.gpu.onnx").open("ab") as graph:
        graph.write(b"!")
    status, output = kit(workflow.folder, workflow.environment(), "pack", RESULT)
    assert status == 1 and output.startswith("error: results/digits/clean/LeViT-tiny.gpu.onnx is not what clean_onnx ")
    with tarfile.open(device / "outputs.tar") as archive:
        archive.extractall(tmp_path / "copied", filter="data")
    with next((tmp_path / "copied").rglob("*.engine")).open("ab") as engine:
        engine.write(b"!")
    with tarfile.open(tmp_path / "damaged.tar", "w") as archive:
        for path in filter(Path.is_file, (tmp_path / "copied").rglob("*")):
            archive.add(path, arcname=path.relative_to(tmp_path / "copied"))
    other = travelled[0].copy(tmp_path / "other")
    status, output = kit(other.folder, other.environment(), "unpack", str(tmp_path / "damaged.tar"))
    assert status == 1 and ".engine is not what build_engine wrote" in output and output.count("\n") == 1
    assert not other.path("results/digits/engines").exists()


KITS = {
    "empty": (b"", "is not a whole tar"),
    "no tar": (b"results\n" * 100, "is not a whole tar"),
    "half": (None, "fetch it again from the target"),
    "foreign": ({"other.txt": "hello"}, "has no kit.json"),
    "no JSON": ({"kit.json": "{"}, "pack another kit"),
    "a list": ({"kit.json": "[]"}, "pack another kit"),
    "older": ({"kit.json": '{"jobs": [{"script": "x.py"}]}'}, "pack another kit"),
    "of no result": ({"kit.json": '{"jobs": [], "inputs": {}, "results": []}'}, "pack another kit"),
}


@pytest.mark.parametrize("kind", KITS)
def test_what_is_no_kit_is_refused_in_a_line(travelled, tmp_path, kind):
    content, said = KITS[kind]
    path, workflow = tmp_path / "x.tar", travelled[0]
    if isinstance(content, dict):
        with tarfile.open(path, "w") as archive:
            for name, text in content.items():
                (tmp_path / name).write_text(text)
                archive.add(tmp_path / name, arcname=name)
    else:
        whole = (travelled[1] / "outputs.tar").read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    status, output = kit(workflow.folder, workflow.environment(), "unpack", str(path))
    assert status == 1 and said in output and output.startswith("error: ") and output.count("\n") == 1


def test_a_kit_that_is_not_there_is_named(travelled, tmp_path):
    workflow = travelled[0]
    status, output = kit(workflow.folder, workflow.environment(), "unpack", "nowhere.tar")
    assert (status, output) == (1, "error: nowhere.tar: No such file or directory\n")
    status, output = kit(workflow.folder, workflow.environment(), "run")
    assert status == 1 and output.startswith("error: there is no kit.json in ") and output.count("\n") == 1
