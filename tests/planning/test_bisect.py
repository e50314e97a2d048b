"""The original's bisection through a Polygraphy that behaves like the real one; its search is the real one's code."""

import json
import sys

import numpy as np
import pytest
from test_engine_commands import call, options

import bisect_precision
from core.files import UserError
from described import model_file

LAYERS, NEEDED = 749, 398
POLYGRAPHY = """#!{python}
import subprocess, sys
arguments = sys.argv[1:]
if arguments[0] == "--version":
    print("Polygraphy | Version: 0.53.6 | Path: ['/site/polygraphy']")
elif arguments[0] == "run" and "--onnxrt" in arguments:
    open("outputs.json", "w").write("logits")
    open("inputs.json", "w").write(open(arguments[arguments.index("--data-loader-script") + 1]).read())
elif arguments[0] == "run":
    assert open("outputs.json").read() == "logits" and "input_0" in open("inputs.json").read()
    sys.exit(int(open(arguments[1]).read()) < {needed})
else:
    from polygraphy.tools.debug.subtool.precision import BisectMarker
    assert arguments[:2] == ["debug", "precision"] and "--fp16" in arguments
    marker, number, done = BisectMarker({layers}, "forward"), 0, False
    while not done:
        number += 1
        print(f"[I] RUNNING | Iteration {{number}} | Approximately {{marker.remaining()}} iteration(s) remaining")
        open("polygraphy_debug.engine", "w").write(str(len(marker.select_layers())))
        done = marker.step(subprocess.call(arguments[arguments.index("--check") + 1 :]) == 0)
"""


@pytest.fixture
def device(tmp_path):
    """A device with a version of TensorRT and Polygraphy on PATH; returns a function that bisects there."""
    (tmp_path / "net.onnx").write_bytes(b"graph")
    with open(tmp_path / "select.u8", "wb") as stream:
        np.save(stream, np.zeros((2, 4, 4, 3), np.uint8))

    def run(version="8.5.3.1", needed=NEEDED, tool=True, compute="fp16", text=None):
        installed = tmp_path / "tensorrt-1.dist-info"
        if version:
            installed.mkdir(exist_ok=True)
            (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt\nVersion: {version}\n")
        if tool:
            (tmp_path / "bin").mkdir(exist_ok=True)
            program = text or POLYGRAPHY.format(python=sys.executable, needed=needed, layers=LAYERS)
            (tmp_path / "bin/polygraphy").write_text(program)
            (tmp_path / "bin/polygraphy").chmod(0o755)
        recipe = {"compute": compute, "workspace_mb": 64, "batches": [1]}
        model = model_file(tmp_path, {"mean": [0.5] * 3, "std": [0.5] * 3})
        files = {"onnx": "net.onnx", "images": "select.u8", "bisect": "bisect.json"}
        given = options(**{flag: str(tmp_path / path) for flag, path in files.items()})
        environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
        status, said = call(
            "bisect_precision.py", *given, *options(model=model, recipe=recipe, identity={}), **environment
        )
        result = tmp_path / "bisect.json"
        return status, said, json.loads(result.read_text()) if result.exists() else None

    return run


def test_builds_and_layers_are_recorded(device):
    status, said, found = device()
    assert status == 0, said
    assert (found["kept"], found["layers"], found["met"], found["builds"]) == (NEEDED, LAYERS, True, 10)
    assert found["versions"] == {"tensorrt": "8.5.3.1", "polygraphy": "0.53.6"} and found["seconds"] > 0
    assert found["command"][:2] == ["debug", "precision"] and "workspace:64M" in found["command"]
    assert f"10 engine builds in {found['seconds']:.0f} s: {NEEDED} of {LAYERS} layers" in said


def test_no_number_of_layers_is_enough(device):
    status, _, found = device(needed=LAYERS + 9)
    assert status == 0 and found["kept"] is None and not found["met"] and found["builds"] >= 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": None}, "bisect needs TensorRT up to 10.x in this Python, and there is none"),
        ({"version": "11.0.1"}, "TensorRT 11.0.1 takes no precision of a layer"),
        ({"tool": False}, "bisect needs Polygraphy's command line on PATH"),
        ({"compute": "fp32"}, "there is nothing to bisect in fp32: only in fp16 and int8"),
        ({"text": "#!/bin/sh\necho '[E] no GPU'; exit 3\n"}, "failed with status 3: [E] no GPU"),
        ({"text": "#!/bin/sh\necho 1.0\n"}, "polygraphy debug precision printed no iterations"),
    ],
)
def test_what_cannot_be_bisected_is_one_line(device, change, message):
    status, said, found = device(**change)
    assert status == 1 and found is None
    assert "error: " in said and message in said and "Traceback" not in said


def test_what_an_older_polygraphy_says():
    text = "RUNNING | Iteration 1\nSelecting first 9 layer(s)\ntry running the first 4 layer(s) in float32 precision"
    assert bisect_precision.described(text, 1.0)["kept"] == 4
    with pytest.raises(UserError, match="printed no iterations"):
        bisect_precision.described("", 1.0)


def test_why_no_engine_was_right_is_kept():
    """The lines of Polygraphy 0.49.26 with TensorRT 8.5.3.1, which can build none with all layers in FP32."""
    text = (
        "[I]     RUNNING | Iteration 1 | Approximately 10 iteration(s) remaining\n"
        "[I]     Selecting first 669 layer(s) to run in higher precision\n"
        "[E]     2: [optimizer.cpp::getFormatRequirements::3103] Error Code 2: Internal Error (Assertion failed.)\n"
        "[E]     FAILED | Iteration 1 | Duration 7.65s\n"
    )
    found = bisect_precision.described(text, 7.65)
    assert not found["met"] and found["error"].startswith("2: [optimizer.cpp::getFormatRequirements::3103]")
