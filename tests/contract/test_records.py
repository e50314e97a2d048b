"""Artifacts are what their writer wrote: a changed one is refused by whoever reads it, and made again once deleted."""

import json
import os

import pytest

from workflow import Workflow

LABEL = "LeViT-tiny.int8_qat.cpu"
RESULT = f"results/{LABEL}.json"
CHANGED = {  # artifact -> what reads it, which is removed; who wrote it; what the refusal says besides
    "data/{images}.calib.u8": ("calibration/LeViT-tiny.int8_qat.json", "decode_split", ""),
    "data/{images}.val.u8": (f"accuracy/{LABEL}.json", "decode_split", ""),
    "data/index.json": (f"accuracy/{LABEL}.json", "index_dataset", ""),
    "accuracy/LeViT-tiny.torch.npy": (f"accuracy/{LABEL}.json", "evaluate_torch", ""),
    "checkpoints/LeViT-tiny.pth": ("calibration/LeViT-tiny.int8_qat.json", "train", "`weights: FILE`"),
    "calibration/LeViT-tiny.int8_qat.json": ("qat/LeViT-tiny.int8_qat.pth", "calibrate", "{import: FILE}"),
    "qat/LeViT-tiny.int8_qat.pth": ("plans/LeViT-tiny.int8_qat.json", "train_qat", "{import: FILE}"),
    "plans/LeViT-tiny.int8_qat.json": ("quantized/LeViT-tiny.int8_qat.cpu.onnx", "plan_precision", "{plan: FILE}"),
    "quantized/LeViT-tiny.int8_qat.cpu.onnx": (f"engines/{LABEL}.engine", "quantize_onnx", ""),
    f"engines/{LABEL}.engine": (f"benchmark/{LABEL}.json", "build_engine", ""),
    f"benchmark/{LABEL}.json": (f"../{LABEL}.json", "benchmark", ""),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    workflow = Workflow.fresh(tmp_path_factory.mktemp("records") / "run")
    workflow.build(RESULT)
    return workflow


def test_every_artifact_has_a_record_and_it_names_what_it_was_made_of(built):
    artifacts = [p for p in built.path("results").rglob("*") if p.is_file() and "logs" not in p.parts]
    artifacts = [p for p in artifacts if "images" not in p.parts and p.suffix != ".provenance"]
    assert len(artifacts) > 15 and all(p.with_name(f"{p.name}.provenance").is_file() for p in artifacts)
    record = json.loads(built.path(f"{RESULT}.provenance").read_text())
    trained = sorted(path for path, made in record["lineage"].items() if made["trained"])
    assert trained == [
        f"results/digits/{name}" for name in ("checkpoints/LeViT-tiny.pth", "qat/LeViT-tiny.int8_qat.pth")
    ]
    context = record["lineage"][trained[0]]["context"]
    assert context["threads"] >= 1 and context["device"] == "cpu" and context["dtype"] in ("float32", "bfloat16")


def half_zeroed(path):
    """Zero half of a file and keep its size and its time."""
    kept = path.stat()
    with path.open("r+b") as stream:
        stream.write(bytes(kept.st_size // 2))
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))


@pytest.mark.parametrize("name", CHANGED)
def test_a_changed_artifact_is_refused_by_whoever_reads_it(built, tmp_path, name):
    workflow, (reader, writer, door) = built.copy(tmp_path / "run"), CHANGED[name]
    images = next(workflow.path("results/digits/data").glob("*.val.u8")).name[: -len(".val.u8")]
    path, wanted = workflow.path("results/digits") / name.format(images=images), f"results/digits/{reader}"
    half_zeroed(path)
    workflow.path(wanted).unlink()
    status, output = workflow.run("--quiet", "rules", "--", os.path.normpath(wanted))
    said = [line for line in output.splitlines() if line.startswith("error: ")]
    assert status == 1 and said and f"{path.name} is not what {writer} wrote" in said[0] and door in said[0], output
    assert "delete it and run again" in said[0]


def test_once_deleted_it_is_made_again(built, tmp_path):
    workflow = built.copy(tmp_path / "run")
    engine = workflow.path(f"results/digits/engines/{LABEL}.engine")
    whole = engine.read_bytes()
    half_zeroed(engine)
    engine.unlink()
    workflow.build(f"results/digits/engines/{LABEL}.engine")
    assert engine.read_bytes() == whole
