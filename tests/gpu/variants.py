"""Write what visit.py asks for of a built results/{dataset}: its graphs, and others that answer where INT8 pays.

    python tests/gpu/variants.py results/digits STAGE

Variants of the gpu class: linear layers as 1x1 convolutions (`conv`), and Q/DQ pairs on fewer kinds of nodes.
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

import export_cache  # noqa: E402
from core.files import read_json  # noqa: E402
from graph import onnx_io, passes, qdq  # noqa: E402
from model import checkpoint  # noqa: E402
from planning import strip_qdq  # noqa: E402
from quantization.amax import split_state  # noqa: E402
from runtimes import _calibration  # noqa: E402

MODEL, VERSION = "LeViT-128S", "8.5.3.1"
EVERYTHING = ["conv", "linear", "attention", "residual"]
PLACEMENTS = {
    "linear": ["conv", "linear"],
    "residual": ["conv", "linear", "residual"],
    "stem": ["conv"],
    "attention": ["conv", "linear", "attention"],
}
IMAGES, NORMALIZATION = (
    f"data/{MODEL}.calib.u8",
    {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
)
COPIED = ("data/index.json", f"data/{MODEL}.val.u8", f"accuracy/{MODEL}.torch.npy")


def without_pairs(path, target):
    """Write the clean graph of a Q/DQ graph's weights to a file."""
    strip_qdq.strip(path, {qdq.module_of(node) for node in onnx_io.load(path).nodes}, target)


def main():
    source, stage = Path(sys.argv[1]), Path(sys.argv[2])
    for folder in ("clean", "quantized", "calibration", "data", "accuracy"):
        (stage / folder).mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        shutil.copyfile(source / name, stage / name)
    clean = source / "clean" / f"{MODEL}.gpu.onnx"
    shutil.copyfile(clean, stage / "clean" / clean.name)
    onnx_io.save(passes.apply(onnx_io.load(clean), ["gemm_to_conv"]), stage / "clean" / f"{MODEL}.gpu-conv.onnx")
    for precision in ("int8_ptq", "int8_qat"):
        name = f"{MODEL}.{precision}.gpu.onnx"
        shutil.copyfile(source / "quantized" / name, stage / "quantized" / name)
    amax = split_state(checkpoint.read(source / "qat" / f"{MODEL}.int8_qat.pth"))[1]
    learned = stage / "learned.onnx"
    without_pairs(source / "quantized" / f"{MODEL}.int8_qat.gpu.onnx", learned)
    for variant, placement in PLACEMENTS.items():
        graph = qdq.insert(onnx_io.load(learned), amax, placement)
        onnx_io.save(graph, stage / "quantized" / f"{MODEL}.int8_qat-{variant}.gpu.onnx")
    wide = passes.apply(onnx_io.load(learned), ["gemm_to_conv"])
    onnx_io.save(qdq.insert(wide, amax, ["conv", "residual"]), stage / "quantized" / f"{MODEL}.int8_qat-conv.gpu.onnx")
    learned.unlink()
    calibration = read_json(source / "calibration" / f"{MODEL}.int8_ptq.json")
    batches = export_cache.batches_of(source / IMAGES, calibration["images"], NORMALIZATION)
    scales = export_cache.scales_of(onnx_io.load(clean), calibration["amax"], EVERYTHING, batches)
    text = _calibration.text(scales, VERSION)
    (stage / "calibration" / f"{MODEL}.int8_ptq.gpu.cache").write_text(text, encoding="ascii")


if __name__ == "__main__":
    main()
