"""A GPU target's identity: what a changed driver, runtime or device makes stale, and what preflight refuses."""

import pytest

from workflow import Workflow

RESULT = "results/LeViT-tiny.fp32.gpu.json"
STALE = [
    "assemble_result fp32.gpu",
    "benchmark fp32.gpu",
    "build_engine fp32.gpu",
    "build_plugin gpu",
    "evaluate_engine accuracy.fp32.gpu",
    "fingerprint gpu",
    "run_trtexec fp32.gpu",
]
SMI = '#!/bin/sh\necho "{device}, {capability}, {memory} MiB, {driver}"\n'
FACTS = {"device": "NVIDIA H200", "capability": "9.0", "memory": "143771", "driver": "580.1"}


def machine(workflow, version="8.5.3.1", **facts):
    """Let the workflow see a GPU with these facts, and a version of TensorRT, or None of it."""
    tools, installed = workflow.path("tools"), workflow.path("installed/tensorrt-1.dist-info")
    tools.mkdir(exist_ok=True)
    if version:
        installed.mkdir(parents=True, exist_ok=True)
        (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n")
    (tools / "nvidia-smi").write_text(SMI.format(**{**FACTS, **facts}))
    (tools / "nvidia-smi").chmod(0o755)
    path = workflow.environment()["PATH"]
    workflow.variables.update(PATH=f"{tools}:{path}", PYTHONPATH=str(installed.parent))


def complete(folder, result):
    """Return a workflow on a machine with a GPU, in which a result is built and nothing is left to do for it."""
    workflow = Workflow.fresh(folder / "base")
    workflow.config(lambda config: config["graphs"]["gpu_fused"]["precisions"].append("fp32"))  # fp32 has no plan
    machine(workflow)
    workflow.build(result)
    assert workflow.plan(result) == []
    return workflow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return complete(tmp_path_factory.mktemp("gpu"), RESULT)


@pytest.mark.parametrize(
    "change",
    [{"driver": "590.2"}, {"version": "8.6.1"}, {"device": "NVIDIA L4", "capability": "8.9", "memory": "23034"}],
    ids=lambda change: next(iter(change)),
)
def test_what_a_changed_machine_makes_stale(built, tmp_path, change):
    workflow = built.copy(tmp_path / "changed")
    machine(workflow, **change)
    assert workflow.plan(RESULT) == sorted(STALE)
    rebuilt = ["build_engine digits/engines/LeViT-tiny.fp32.gpu.engine", "build_plugin plugins/gpu.so"]
    assert workflow.build(RESULT) == rebuilt
    assert workflow.plan(RESULT) == []


TIMED = ["assemble_result fp32.gpu", "benchmark fp32.gpu", "run_trtexec fp32.gpu"]
ROWS = [
    ({"cuda_graph": False}, TIMED),
    ({"iterations": 77}, TIMED),
    ({"power_mode": "MAXN"}, TIMED),
    ({"trtexec": False}, ["assemble_result fp32.gpu"]),
]
MORE_ROWS = [({name: False}, TIMED) for name in ("transfers", "spin_wait")]
SCRIPTS = [
    ("run_trtexec.py", ["assemble_result fp32.gpu", "run_trtexec fp32.gpu"]),
    ("measure/trtexec.py", ["assemble_result fp32.gpu", "run_trtexec fp32.gpu"]),
    ("benchmark.py", ["assemble_result fp32.gpu", "benchmark fp32.gpu"]),
    ("measure/stats.py", TIMED),
    ("profile_engine.py", []),
]


@pytest.mark.parametrize(
    "change, jobs",
    [*ROWS, *(pytest.param(*row, marks=pytest.mark.slow) for row in MORE_ROWS)],
    ids=[next(iter(change)) for change, _ in [*ROWS, *MORE_ROWS]],
)
def test_how_it_is_timed_is_the_timings_alone(built, tmp_path, change, jobs):
    workflow = built.copy(tmp_path / "changed")
    machine(workflow)
    assert workflow.plan(RESULT) == []
    workflow.config(lambda config: config["targets"]["gpu"].update(change))
    assert workflow.plan(RESULT) == jobs
    assert workflow.build(RESULT) == [] and workflow.plan(RESULT) == []


PLUGGED = ["assemble_result", "benchmark", "build_engine", "build_plugin", "evaluate_engine", "run_trtexec"]


def test_a_compiler_that_is_installed_later_builds_the_plugin(built, tmp_path):
    workflow = built.copy(tmp_path / "changed")
    machine(workflow)
    (workflow.path("tools") / "nvcc").write_text("#!/bin/sh\necho Cuda compilation tools, release 11.8, V11.8.89\n")
    (workflow.path("tools") / "nvcc").chmod(0o755)
    assert {job.split()[0] for job in workflow.plan(RESULT)} == {*PLUGGED}


def test_an_edited_kernel_makes_the_plugin_and_what_loads_it_stale(built, tmp_path):
    workflow = built.copy(tmp_path / "changed")
    machine(workflow)
    path = workflow.path("plugins/levit_attention/attention.cu")
    path.write_text(path.read_text() + "\n// another kernel\n")
    assert {job.split()[0] for job in workflow.plan(RESULT)} == {*PLUGGED}


def test_without_plugins_an_engine_is_of_the_plain_graph_alone(built, tmp_path):
    workflow = built.copy(tmp_path / "changed")
    machine(workflow)
    workflow.config(lambda config: config["targets"]["gpu"].update(plugins="none"))
    assert {job.split()[0] for job in workflow.plan(RESULT)} == {*PLUGGED} - {"build_plugin"}
    workflow.config(lambda config: config["targets"]["gpu"].update(plugins="require"))
    assert {job.split()[0] for job in workflow.plan(RESULT)} == {*PLUGGED}


@pytest.mark.parametrize(
    "target, row, reason",
    [
        (
            "cpu",
            {"plugins": "auto"},
            "targets.cpu.plugins: they are of the runtime tensorrt, not typed, with a",
        ),
        ("gpu", {"plugins": "always"}, "targets.gpu.plugins"),
        ("gpu", {"fused_graph": "gpu_fuse"}, "unknown graph gpu_fuse: did you mean gpu_fused"),
    ],
)
def test_rows_of_plugins_that_make_no_sense(tmp_path, target, row, reason):
    workflow = Workflow.fresh(tmp_path / "run")
    workflow.config(lambda config: config["targets"][target].update(row))
    status, output = workflow.run("-n", "--quiet", "--", RESULT)
    assert status == 1 and f"error: {reason}" in output, output


def test_trtexec_that_is_asked_for_later(built, tmp_path):
    workflow = built.copy(tmp_path / "changed")
    machine(workflow)
    workflow.config(lambda config: config["targets"]["gpu"].update(trtexec=False))
    workflow.path("results/digits/trtexec/LeViT-tiny.fp32.gpu.json").unlink()
    workflow.build(RESULT)
    workflow.config(lambda config: config["targets"]["gpu"].update(trtexec=True))
    assert workflow.plan(RESULT) == ["assemble_result fp32.gpu", "run_trtexec fp32.gpu"]


@pytest.mark.parametrize("script, jobs", SCRIPTS, ids=[script for script, _ in SCRIPTS])
def test_code_of_a_timing(built, tmp_path, script, jobs):
    workflow = built.copy(tmp_path / "changed")
    machine(workflow)
    path = workflow.path(f"workflow_scripts/{script}")
    path.write_text(path.read_text() + "\nEXTRA = 1\n")
    assert workflow.plan(RESULT) == jobs


def test_timing_caches_decide_nothing(built, tmp_path):
    workflow = built.copy(tmp_path / "changed")
    machine(workflow)
    caches = workflow.path(".cache/timing")
    caches.mkdir(parents=True)
    (caches / "tensorrt.timing").write_bytes(b"anything")
    assert workflow.plan(RESULT) == []


DLA = {"dla_generation": 1, "dla_graph": "dla1"}


@pytest.mark.parametrize(
    "version, row, reason",
    [
        (None, {}, "tensorrt is not installed in "),
        ("8.5.3.1", {"compute_capability": "7.2"}, "compute_capability is 9.0 here, and the target's is 7.2"),
        ("8.5.3.1", {"version": "10.3"}, "tensorrt is 8.5.3.1 here, and the target's is 10.3"),
        (
            "8.5.3.1",
            {"dla": 2, "dla_generation": 1, "dla_graph": "dla1"},
            "there are 0 DLA cores here, and the target has 2",
        ),
        ("8.5.3.1", {"architecture": "aarch64"}, "architecture is "),
    ],
)
def test_preflight_refuses_before_any_job(tmp_path, version, row, reason):
    workflow = Workflow.fresh(tmp_path / "run")
    machine(workflow, version)
    workflow.config(lambda config: config["targets"]["gpu"].update(row))
    assert "build_engine fp32.gpu" in workflow.plan(RESULT), "a dry run works everywhere"
    status, output = workflow.run("--quiet", "--", RESULT)
    assert status == 1
    assert f"error: this machine cannot build engines of the target gpu: {reason}" in output
    assert not workflow.path("work.log").exists(), "no job was started"


def test_a_power_mode_that_a_row_does_not_ask_for_is_refused_before_any_job(tmp_path):
    workflow = Workflow.fresh(tmp_path / "run")
    machine(workflow)
    (workflow.path("tools") / "nvpmodel").write_text("#!/bin/sh\necho NV Power Mode: MODE_15W_6CORE\necho 2\n")
    (workflow.path("tools") / "nvpmodel").chmod(0o755)
    workflow.config(lambda config: config["targets"]["gpu"].update(power_mode="20W_6CORE"))
    status, output = workflow.run("--quiet", "--", RESULT)
    said = "the power mode is MODE_15W_6CORE here, and the row asks for 20W_6CORE: set it, or other_power_mode: mark"
    assert status == 1 and f"error: nothing can be timed for the target gpu: {said}" in output
    assert not workflow.path("work.log").exists(), "no job was started"
    workflow.config(lambda config: config["targets"]["gpu"].update(other_power_mode="mark"))
    assert workflow.build(RESULT)


TORCH = "results/LeViT-tiny.fp32.torch_cuda.json"
REBUILT = [f"{job} fp32.torch_cuda" for job in ("assemble_result", "benchmark", "build_engine")]
REBUILT.append("evaluate_engine accuracy.fp32.torch_cuda")


@pytest.fixture(scope="module")
def torch_built(tmp_path_factory):
    return complete(tmp_path_factory.mktemp("torch"), TORCH)


@pytest.mark.parametrize(
    "change, also",
    [
        ({"compile": False}, []),
        ({"fused_attention": True}, []),
        ({"device": "cpu"}, ["fingerprint torch_cuda"]),
    ],
    ids=lambda value: next(iter(value), ""),
)
def test_what_pytorchs_keys_make_stale(torch_built, tmp_path, change, also):
    workflow = torch_built.copy(tmp_path / "changed")
    machine(workflow)
    workflow.config(lambda config: config["targets"]["torch_cuda"].update(change))
    assert workflow.plan(TORCH) == sorted([*REBUILT, *also])
    assert workflow.build(TORCH) == ["build_engine digits/engines/LeViT-tiny.fp32.torch_cuda.engine"]
    assert workflow.plan(TORCH) == []


def test_a_comparison_that_is_asked_for_later(torch_built, tmp_path):
    workflow = torch_built.copy(tmp_path / "changed")
    machine(workflow)
    workflow.build(RESULT)
    workflow.config(lambda config: config["targets"]["gpu"].update(pytorch="fp32.torch_cuda"))
    assert workflow.plan(RESULT) == ["assemble_result fp32.gpu", "compare_pytorch fp32.gpu"]
    workflow.build(RESULT)
    workflow.config(lambda config: config["targets"]["torch_cuda"].update(compile=False))
    stale = ["assemble_result fp32.gpu", "build_engine fp32.torch_cuda", "compare_pytorch fp32.gpu"]
    assert workflow.plan(RESULT) == stale


def test_the_kernel_in_triton_is_of_a_gpu(tmp_path):
    workflow = Workflow.fresh(tmp_path / "run")
    workflow.config(lambda config: config["targets"]["torch"].update(fused_attention=True))
    status, output = workflow.run("-n", "--quiet", "--", "results/LeViT-tiny.fp32.torch.json")
    assert status == 1 and "error: targets.torch.fused_attention: its kernel runs on a GPU" in output, output
