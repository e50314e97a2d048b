"""Bad requests are answered in one line that names the thing and the remedy, before any job, by both Snakemakes."""

import re
import venv

import pytest
import yaml
from snakemake.utils import update_config

from configuration import checks
from core.files import UserError
from workflow import ON_BOTH, SNAKEMAKE7, SNAKEMAKES, Workflow

REQUESTS = {
    "results/LeViT-128.int8_qta.cpu.json": "unknown precision int8_qta: did you mean int8_qat",
    "results/LeViT-129S.fp32.cpu.json": "unknown model LeViT-129S: did you mean LeViT-128S",
    "results/LeViT-128S.fp32.cpo.json": "unknown target cpo: did you mean cpu",
    "results/digit/onnx/LeViT-tiny.onnx": "unknown dataset digit: did you mean digits?",
    "results/digits/clean/LeViT-tiny.cpus.onnx": "unknown graph cpus: did you mean cpu",
    "results/targets/xaver.json": "unknown target xaver: did you mean xavier?",
    "results/digits/data/LeViT-12.val.u8": "unknown model LeViT-12: did you mean LeViT-192 or LeViT-128",
    "results/LeViT-128S.int8_qat.cpu.jsn": "did you mean results/LeViT-128S.int8_qat.cpu.json?",
    "results/nothing.txt": "results are results/{model}.{precision}.{target}.json",
    "results/LeViT-128S.fp16_dla.cpu.json": "fp16_dla on cpu: ",
    "results/LeViT-128S.fp16_dla.gpu.json": "fp16_dla on gpu: gpu has no deep learning accelerator",
    "results/digits/dla/LeViT-128S.fp16.xavier.json": "precision fp16 has no dla in config.yaml",
    "results/digits/dla/LeViT-128S.fp16_dla.gpu.json": "fp16_dla on gpu: gpu has no deep learning accelerator",
    "results/LeViT-128S.bf16.ort.json": "bf16 on ort: onnxruntime there computes in fp32, int8, not in bf16",
    "results/digits/engines/LeViT-128S.bf16.ort.engine": "bf16 on ort: ",
    "results/digits/engines/LeViT-tiny.auto.cpu.engine": "no rule makes results/digits/engines/",
    "results/LeViT-tiny.auto.cpo.json": "unknown target cpo: did you mean cpu",
    "results/digits/qat/LeViT-tiny.fp32.pth": "precision fp32 has no qat",
    "results/digits/calibration/LeViT-tiny.fp32.json": "precision fp32 has no calibration",
    "results/digits/sweeps/LeViT-tiny.int8_qat.json": "precision int8_qat has no calibration.candidates in config.yaml",
    "results/LeViT-tiny.nncf.gpu.json": "nncf on gpu: tensorrt takes no zero points, and NNCF's pairs have them",
    "results/digits/calibration/LeViT-tiny.nncf.json": "precision nncf has no calibration.method in config.yaml",
    "results/digits/quantized/LeViT-tiny.auto.cpu.onnx": "no rule makes results/digits/quantized/",
    "results/imagenet/checkpoints/LeViT-tiny.pth": "LeViT-tiny on imagenet: the model has no official weights",
}
NNCF = {"compute": "int8", "budget": 2.0, "calibration": {"backend": "nncf"}}
SETTINGS = {
    "sead=3": "unknown key sead: did you mean seed or site?",
    "seed=many": "seed: 'many' is not of type integer",
    "dataset=digit": "unknown dataset digit: did you mean digits?",
    "results={models: [LeViT-129]}": "unknown model LeViT-129: did you mean",
    "precisions={int8_ptq: {calibration: {method: entropie}}}": "calibration.method: 'entropie' is none of",
    "precisions={int8_ptq: {calibration: {method: max}}}": "the method sweep and a list of candidates need each other",
    "precisions={int8_qat: {calibration: {method: sweep}}}": "the method sweep and a list of candidates need each",
    "precisions={int8_dla: {calibration: {smoothing: 0.5}}}": "int8_dla.calibration: smoothing changes weights, and a",
    "precisions={fp16_dla: {batches: [1, 8]}}": "precisions.fp16_dla: an engine on a DLA has one batch (batches: [1])",
    "targets={gpu: {dla: 1}}": "targets.gpu: its dla needs a dla_generation and a dla_graph",
    "targets={gpu: {dla: 1, dla_generation: 1, dla_graph: dla9}}": "unknown graph dla9: did you mean dla",
    "precisions={int8_qat: {calibration: {equalize: true, import: x.pth}}}": "imported ranges are of the network as it",
    "precisions={int8_ptq: {callibration: {method: max}}}": "unknown key precisions.int8_ptq.callibration",
    "precisions={nncf: {calibration: {method: max}}}": "precisions.nncf.calibration: method has no effect with",
    "precisions={nncf: {fallback: auto}}": "precisions.nncf: NNCF places pairs itself: no dla and no qat, and fallback",
    "precisions={fp16: {calibration: {images: 8}}}": "precisions.fp16.calibration: it has no method: max, entropy,",
    "precisions={int8_qat: {calibration: {model_type: transformer}}}": "model_type is of the backend nncf",
    "precisions={auto: {choose: [int9]}}": "unknown precision int9: did you mean",
    "precisions={auto: {choose: [auto]}}": "precisions.auto: it cannot choose auto, which chooses itself",
    "precisions={auto: {objective: fast}}": "precisions.auto.objective: 'fast' is not throughput, latency,",
    "precisions={auto: {objective: throughput within 0 ms at p99}}": "leaves no query any time: N must be above 0 ms",
    "precisions={fp32: {objective: latency}}": "precisions.fp32.objective: it is of a row that chooses (choose)",
    "precisions={fp32: {choose: all}}": "precisions.fp32: give either compute or choose",
    "targets={my-board: {runtime: openvino, graph: cpu, precisions: [fp32]}}": "the name targets.my-board: ",
    "targets={cpu: {graph: cqu}}": "unknown graph cqu: did you mean cpu",
    "targets={rtx: {graph: cpu}}": "targets.rtx: typed graphs are made of the graph variant gpu",
    "datasets={targets: {path: /x, classes: 10, weights: train}}": "the name datasets.targets: ",
    "datasets={digits: {path: /x}}": "datasets.digits: give either builtin or path",
    "models={LeViT-tiny: {crop: 1.5}}": "models.LeViT-tiny.crop: 1.5 is above 1",
}


@pytest.fixture(scope="module", params=SNAKEMAKES)
def workflow(request, tmp_path_factory):
    if not request.param.exists():
        pytest.skip(f"{request.param} is not there: `make test` makes it")
    made = Workflow.fresh(tmp_path_factory.mktemp("refusals") / "run", snakemake=request.param)
    made.config(lambda config: config["precisions"].update(nncf=NNCF))
    return made


def refusal(workflow, *arguments, **variables):
    """Return the last line of a run that must fail before any job."""
    status, output = workflow.run(*arguments, **variables)
    assert status == 1, output
    assert not workflow.path("work.log").exists()
    last = output.strip().splitlines()[-1]
    assert last.startswith("error: "), output
    assert "Traceback" not in output
    return last


def test_requests(workflow):
    for path, said in REQUESTS.items():
        assert said in refusal(workflow, path, "-n"), path


@ON_BOTH("workflow")
def test_one_bad_request_among_good_ones_starts_nothing(workflow):
    assert "unknown target" in refusal(workflow, "results/LeViT-tiny.fp32.cpu.json", "results/LeViT-tiny.fp32.cpo.json")


def test_settings(workflow):
    """As Snakemake merges them into config.yaml; three of them through Snakemake itself."""
    for setting, said in SETTINGS.items():
        config = yaml.safe_load(workflow.path("config.yaml").read_text())
        key, _, value = setting.partition("=")
        update_config(config, {key: yaml.safe_load(value)})
        with pytest.raises(UserError, match=re.escape(said)):
            checks.load(config)
    for setting in list(SETTINGS)[:3]:
        assert SETTINGS[setting] in refusal(workflow, "-n", "--config", setting), setting


@pytest.mark.slow
def test_every_setting_through_snakemake(workflow):
    for setting, said in SETTINGS.items():
        assert said in refusal(workflow, "-n", "--config", setting), setting
    said = "error: LEVIT_PROCESSES=-2: give a number of processes, or nothing"
    assert refusal(workflow, "-n", LEVIT_PROCESSES="-2") == said


@pytest.mark.parametrize("target, said", [("xavier", "cannot build engines of the target xavier: "), ("rtx", "rtx")])
def test_targets_that_are_not_here_are_refused_before_any_job(workflow, target, said):
    if target == "rtx" and workflow.snakemake == SNAKEMAKE7:
        pytest.skip("TensorRT-RTX is not installed beside Snakemake 7")
    request = f"results/LeViT-tiny.fp32.{target}.json"
    assert workflow.plan(request)
    assert said in refusal(workflow, request)


def test_engines_for_rtx_are_built_without_its_gpu(workflow):
    if workflow.snakemake == SNAKEMAKE7:
        pytest.skip("TensorRT-RTX is not installed beside Snakemake 7")
    assert workflow.build("results/digits/engines/LeViT-tiny.fp16.rtx.engine")
    workflow.path("work.log").unlink()


@ON_BOTH("workflow")
def test_interpreter_of_a_target_that_is_not_there(workflow):
    setting = "targets={cpu: {python: /no/such/python}}"
    said = refusal(workflow, "results/LeViT-tiny.fp32.cpu.json", "--config", setting)
    assert "its interpreter /no/such/python does not run here" in said


def test_interpreter_of_a_target_without_its_runtime(workflow, tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare/bin/python"
    setting = f"targets={{cpu: {{python: {python}}}}}"
    said = refusal(workflow, "results/LeViT-tiny.fp32.cpu.json", "--config", setting)
    assert f"of the target cpu: openvino is not installed in {python}" in said
