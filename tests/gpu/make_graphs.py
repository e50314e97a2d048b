"""Write the small networks of smoke.py, with what they compute, where onnx is installed.

python tests/gpu/make_graphs.py tests/gpu/graphs
"""

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow_scripts"), str(ROOT / "tests/support")]

import engine_graphs as graphs  # noqa: E402
from runtimes import _calibration  # noqa: E402


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    graphs.network(folder / "plain.onnx", nodes=graphs.older_nodes())
    graphs.quantized(folder / "quantized.onnx", nodes=graphs.older_nodes())
    images = graphs.images(6)
    np.save(folder / "images.npy", images)
    np.save(folder / "logits.npy", graphs.expected(images).astype(np.float32))
    scales = {output: 6 / 127 for node in graphs.older_nodes() for output in ["input_0", *node.output]}
    (folder / "plain.cache").write_text(_calibration.text(scales, "8.5.3.1"))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
