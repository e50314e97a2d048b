"""Dry runs: what is planned for which request, everywhere, under Snakemake 9 and 7.32.4 alike."""

import re
from pathlib import Path

import pytest
import yaml

from workflow import REPOSITORY, SNAKEMAKE, SNAKEMAKE7, Workflow, jobs_of

DEMO = "results/LeViT-128S.int8_qat.cpu.json"
TARGETS = sorted(yaml.safe_load((REPOSITORY / "config.yaml").read_text())["targets"])


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    return Workflow.fresh(tmp_path_factory.mktemp("plan") / "nine")


@pytest.fixture(scope="module")
def workflow7(tmp_path_factory):
    if not SNAKEMAKE7.exists():
        pytest.skip(f"{SNAKEMAKE7} is not there: `make test` makes it")
    return Workflow.fresh(tmp_path_factory.mktemp("plan") / "seven", snakemake=SNAKEMAKE7)


@pytest.fixture(scope="module")
def everything(workflow):
    """What a dry run of every artifact says."""
    status, output = workflow.run("-n", "everything")
    assert status == 0, output
    return output


def test_demo_goes_through_every_artifact(workflow):
    assert workflow.plan(DEMO) == [
        "assemble_result int8_qat.cpu",
        "benchmark int8_qat.cpu",
        "build_engine int8_qat.cpu",
        "calibrate int8_qat",
        "decode_split calib",
        "decode_split select",
        "decode_split val",
        "evaluate_engine accuracy.int8_qat.cpu",
        "evaluate_torch accuracy",
        "evaluate_torch select",
        "fingerprint cpu",
        "index_dataset",
        "plan_precision int8_qat",
        "quantize_onnx int8_qat.cpu",
        "resolve",
        "train",
        "train_qat int8_qat",
    ]


def test_nncf_writes_the_graph_itself(workflow, tmp_path):
    copy, row = workflow.copy(tmp_path / "copy"), {"compute": "int8", "budget": 2.0, "calibration": {"backend": "nncf"}}
    copy.config(lambda config: config["precisions"].update(nncf=row))
    jobs = copy.plan("results/LeViT-tiny.nncf.cpu.json")
    assert {"export_onnx", "quantize_nncf nncf.cpu", "build_engine nncf.cpu"} < set(jobs)
    wanted = {"models": ["LeViT-tiny"], "precisions": ["nncf"], "targets": ["cpu"]}
    copy.config(lambda config: config.update(results=wanted))
    page = copy.plan("results/report.html")
    assert "report" in page and not any(job.startswith("calibrate") for job in page)
    assert not [job for job in jobs if job.split()[0] in ("calibrate", "quantize_onnx", "plan_precision", "clean_onnx")]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_planned_anywhere(workflow, target):
    jobs = workflow.plan(f"results/LeViT-tiny.fp32.{target}.json")
    assert f"build_engine fp32.{target}" in jobs
    assert f"assemble_result fp32.{target}" in jobs


def test_strongly_typed_targets_build_from_typed_graphs(workflow):
    assert "type_onnx int8_ptq" in workflow.plan("results/LeViT-tiny.int8_ptq.rtx.json")


@pytest.mark.parametrize(
    "name, predicted",
    [("fp16.gpu", False), ("fp16.orin", True), ("int8_ptq.rtx", True), ("fp32.gpu", False), ("int8_ptq.cpu", False)],
)
def test_a_typed_graph_is_scored_where_an_engine_follows_it(workflow, name, predicted):
    precision = name.split(".")[0]
    assert (f"evaluate_typed {precision}" in workflow.plan(f"results/LeViT-tiny.{name}.json")) == predicted


def test_a_choice_scores_every_engine_on_the_select_split(workflow):
    jobs = workflow.plan("results/LeViT-tiny.auto.cpu.json")
    names = [f"{precision}.cpu" for precision in ("bf16", "fp32", "int8_ptq", "int8_qat")]
    scored = [job for job in jobs if job.startswith("evaluate_engine select.")]
    assert scored == [f"evaluate_engine select.{name}" for name in names]
    assert "choose_precision auto.cpu" in jobs and "assemble_result auto.cpu" not in jobs


def test_accelerators_have_a_class_of_graph_of_their_own(workflow):
    jobs = workflow.plan("results/LeViT-tiny.int8_dla.xavier.json")
    assert {"export_cache int8_dla.xavier", "clean_onnx dla1"} <= set(jobs)
    assert not any(job.startswith("train_qat") for job in jobs)
    assert "clean_onnx dla2" in workflow.plan("results/LeViT-tiny.fp16_dla.orin.json")


def test_a_dla_is_reported_on_before_and_after_a_build(workflow):
    names = {f"{rule} int8_dla.orin" for rule in ("dla_fit", "compare_dla", "assemble_result")}
    assert names <= set(workflow.plan("results/LeViT-tiny.int8_dla.orin.json"))
    jobs = workflow.plan("results/digits/dla/LeViT-tiny.int8_dla.orin.svg")
    host = {"index_dataset", "resolve", "decode_split calib", "train", "export_onnx"}
    assert set(jobs) == {*host, "clean_onnx dla2", "dla_fit int8_dla.orin"}
    assert not any("dla_fit" in job for job in workflow.plan("results/LeViT-tiny.int8_ptq.orin.json"))


def test_bare_snakemake_makes_what_is_listed_and_names_what_is_skipped(workflow):
    status, output = workflow.run("-n")
    assert status == 0, output
    jobs = jobs_of(output)
    names = ("bf16.cpu", "fp32.cpu", "int8_ptq.cpu", "int8_qat.cpu", "fp32.ort")
    listed = [f"assemble_result {name}" for name in names]
    assert set(listed) <= set(jobs)
    assert {"summarize", "report", "evaluate_onnx"} <= set(jobs)
    assert {f"dla_fit {p}.{t}" for p in ("fp16_dla", "int8_dla") for t in ("xavier", "orin")} <= set(jobs)
    skipped = [line for line in output.splitlines() if line.startswith("skipped: ")]
    away = ("torch_cuda", "rtx", "gpu", "xavier", "orin")
    assert [line.split(": ")[1] for line in skipped] == list(away)
    assert not any(job.startswith("assemble_result") and job.endswith(away) for job in jobs)


def test_pytorch_takes_a_program_and_no_plan(workflow):
    jobs = workflow.plan("results/LeViT-tiny.fp16.torch.json")
    assert {"export_program", "build_engine fp16.torch", "assemble_result fp16.torch"} <= set(jobs)
    assert not any(job.startswith(("export_onnx", "clean_onnx", "plan_precision")) for job in jobs)
    status, output = workflow.run("-n", "results/LeViT-tiny.int8_ptq.torch.json")
    assert status and "pytorch there computes in fp32, bf16, fp16, not in int8" in output


def test_a_target_on_a_board_can_be_reached(workflow, tmp_path):
    copy = workflow.copy(tmp_path / "copy")
    copy.config(lambda config: config["targets"]["xavier"].update(ssh="user@host"))
    status, output = copy.run("-n")
    assert status == 0, output
    assert {"assemble_result fp32.xavier", "build_engine int8_dla.xavier"} <= set(jobs_of(output))
    assert "skipped: orin" in output and "skipped: xavier" not in output


@pytest.mark.parametrize(
    "weights, rule", [("official", "download"), ("train", "train"), ("my/{model}.pth", "import_checkpoint")]
)
def test_source_of_weights_is_a_row(workflow, tmp_path, weights, rule):
    copy = workflow.copy(tmp_path / "copy")
    copy.config(lambda config: config["datasets"]["digits"].update(weights=weights))
    copy.path("my").mkdir()
    copy.path("my/LeViT-128S.pth").touch()
    jobs = copy.plan("results/digits/checkpoints/LeViT-128S.pth")
    assert [job for job in jobs if job not in ("index_dataset", "resolve")] == [rule]


def test_overrides_choose_results(workflow):
    options = ["--config", "results={models: [LeViT-tiny], precisions: [fp32], targets: [cpu]}"]
    jobs = workflow.plan(options=options)
    assert [job for job in jobs if job.startswith("assemble_result")] == ["assemble_result fp32.cpu"]


def test_both_snakemakes_plan_the_same_jobs(workflow, workflow7, everything):
    assert jobs_of(everything) == workflow7.plan("everything") != []
    for target in (DEMO, "results/digits/accuracy/LeViT-tiny.onnx.json"):
        assert workflow.plan(target) == workflow7.plan(target) != []


def test_a_log_is_named_as_its_rule(everything):
    logs_are_named_as_their_rules(everything)


@pytest.mark.slow
def test_a_log_is_named_as_its_rule_under_snakemake_7(workflow7):
    logs_are_named_as_their_rules(workflow7.run("-n", "everything")[1])


def logs_are_named_as_their_rules(output):
    logs = dict(re.findall(r"^rule (\w+):\n(?:    .*\n)*?    log: (\S+)", output, re.MULTILINE))
    assert len(logs) > 20
    assert {rule: Path(log).name.partition(".")[0] for rule, log in logs.items()} == {rule: rule for rule in logs}
    assert logs["evaluate_engine"].startswith("results/logs/digits/evaluate_engine.")
    assert re.fullmatch(r"results/logs/fingerprint\.\w+\.log", logs["fingerprint"])


def test_bare_cores_under_snakemake_7(workflow7):
    status, output = workflow7.run("--cores", "-n")
    assert status == 0, output
    assert "summarize" in jobs_of(output)


def test_build_and_rebuild_under_snakemake_7(workflow7, tmp_path):
    copy = workflow7.copy(tmp_path / "copy")
    # the runtimes are the other Snakemake's: this one is told that the target is this machine
    target = "results/digits/quantized/LeViT-tiny.int8_qat.cpu.onnx"
    assert "train_qat digits/qat/LeViT-tiny.int8_qat.pth" in copy.build(target)
    assert copy.plan(target) == []
    copy.config(lambda config: config["precisions"]["int8_qat"]["qat"].update(epochs=7))
    assert copy.plan(target) == ["plan_precision int8_qat", "quantize_onnx int8_qat.cpu", "train_qat int8_qat"]
    names = ("plan_precision digits/plans/LeViT-tiny.int8_qat.json", "train_qat digits/qat/LeViT-tiny.int8_qat.pth")
    assert copy.build(target) == list(names)


@pytest.mark.parametrize("profile", ["default", "device"])
def test_profiles_differ_in_what_snakemake_7_does_not_know(profile):
    files = (REPOSITORY / f"profiles/{profile}/config{version}.yaml" for version in (".v9+", ""))
    nine, seven = (yaml.safe_load(path.read_text()) for path in files)
    only_nine = {"max-checksum-file-size"}
    assert {key: value for key, value in nine.items() if key not in only_nine} == seven
    assert only_nine <= set(nine)


def test_the_installed_snakemakes_are_the_two_that_are_promised(workflow, workflow7):
    assert workflow.run("--version")[1].split()[-1].startswith("9.")
    assert workflow7.run("--version")[1].split()[-1] == "7.32.4"
    assert SNAKEMAKE.exists()


def test_an_option_that_is_not_served_stops_what_needs_its_row_alone(workflow):
    options = ["--config", "models={LeViT-tiny: {options: {in_chans: 1}}}"]
    status, output = workflow.run("-n", *options, "--", "results/LeViT-tiny.fp32.cpu.json")
    assert status == 1 and "Traceback" not in output
    assert "error: models.LeViT-tiny.options: in_chans: remove it: " in output
    assert workflow.plan("results/LeViT-128S.fp32.cpu.json", options=options)
