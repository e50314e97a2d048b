"""The picture of layers along time, and the capture with Nsight Systems."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

import engine_graphs
from conftest import ROOT
from core.files import canonical
from devices import probe
from reporting import timeline

SVG = "{http://www.w3.org/2000/svg}"
# what nsys must be given, and what it does: it runs the program that follows its options and writes {output}.nsys-rep
NSYS = """#!/bin/sh
[ "$1" = profile ] && shift || { echo "unknown command $1"; exit 1; }
for argument; do
  case "$argument" in
    --output=*) output=${argument#--output=}; shift;;
    --trace=*|--force-overwrite=true) shift;;
    --*) echo "unrecognised option $argument"; exit 1;;
    *) break;;
  esac
done
"$@" || exit 1
echo "Generated: $output.nsys-rep"
echo capture > "$output.nsys-rep"
"""


def layer(name, ms, precision="fp32", kind="Conv", total=10.0):
    return {"name": name, "type": kind, "precision": precision, "ms": ms, "share": ms / total}


def profile(layers, batch=1):
    sums = {}
    for one in layers:
        sums[one["precision"]] = sums.get(one["precision"], 0) + one["ms"]
    return {"batch": batch, "total_ms": sum(one["ms"] for one in layers), "ms_by_precision": sums, "layers": layers}


@pytest.fixture(scope="module")
def drawn():
    """Twenty layers, the tenth the slowest, with names that XML would not take as they are."""
    layers = [layer(f'a<b&c "{n}"', 0.1 + 0.01 * (n == 9) + 0.001 * n) for n in range(18)]
    layers += [layer("reformat", 0.0005, "int8", "Reformat"), layer("shape", 0.0, "int64", "Shape")]
    return layers, ElementTree.fromstring(timeline.draw([profile(layers), profile(layers[:3], 16)], "a & b"))


def bands(picture):
    """Return {y: [(x, width, class, tooltip)]} of the layers' boxes."""
    found = {}
    for box in picture.iter(f"{SVG}rect"):
        if box.find(f"{SVG}title") is not None:
            part = float(box.get("x")), float(box.get("width")), box.get("class"), box.find(f"{SVG}title").text
            found.setdefault(float(box.get("y")), []).append(part)
    return found


def test_each_layer_is_a_box_as_wide_as_its_time_in_order(drawn):
    layers, picture = drawn
    first, second = (boxes for _, boxes in sorted(bands(picture).items()))
    assert len(first) == len(layers) and len(second) == 3
    assert [x for x, *_ in first] == sorted(x for x, *_ in first)
    pixels = (timeline.WIDTH - timeline.LEFT - timeline.RIGHT) / sum(one["ms"] for one in layers)
    for one, (_, width, _, told) in zip(layers, first):
        assert width == pytest.approx(max(one["ms"] * pixels - 0.4, 0.3), abs=0.01)
        assert told.startswith(f"{one['name']} ({one['type']}, {one['precision']}): ")
    assert first[-1][0] <= timeline.WIDTH - timeline.RIGHT


def test_colours_tell_precisions_and_what_moves_data(drawn):
    boxes = sorted(bands(drawn[1]).items())[0][1]
    assert [kind for _, _, kind, _ in boxes[-2:]] == ["int8 moving", "other"] and boxes[0][2] == "fp32"


def test_the_ten_largest_are_numbered_in_the_order_of_time(drawn):
    layers, picture = drawn
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    named = [text for text in texts if " ms  " in text][:10]
    largest = sorted(sorted(range(20), key=lambda n: -layers[n]["ms"])[:10])
    assert [text.split('"')[1] for text in named] == [str(n) for n in largest] and 9 in largest
    circles = [float(circle.get("cx")) for circle in picture.iter(f"{SVG}circle")]
    assert len(circles) == 10 + 3 and circles[:10] == sorted(circles[:10])
    assert all(later - earlier >= 15.9 for earlier, later in zip(circles[:9], circles[1:10])), "none hides another"


def call(script, *arguments, path=None):
    command = [sys.executable, str(ROOT / "workflow_scripts" / script), *map(str, arguments)]
    environment = {**os.environ, "PATH": f"{path or '/nowhere'}:/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.returncode, done.stderr


def test_command(tmp_path):
    (tmp_path / "profile.json").write_text(json.dumps({"profile": [profile([layer("a", 1.0)])]}))
    pictures = []
    for name in ("one.svg", "two.svg"):
        arguments = ["--profile", tmp_path / "profile.json", "--title", "x", "--timeline", tmp_path / name]
        assert call("draw_timeline.py", *arguments) == (0, "")
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]
    (tmp_path / "profile.json").write_text("{}")
    status, said = call("draw_timeline.py", *arguments)
    assert status == 1 and said.startswith("error: ") and "is not a profile" in said


def capture(tmp_path, path):
    engine_graphs.network(tmp_path / "net.onnx")
    recipe = canonical({"batches": [1], "threads": 1})
    return call(
        "capture_nsys.py",
        *("--engine", tmp_path / "net.onnx", "--runtime", "onnxruntime", "--recipe", recipe),
        *("--identity", canonical(probe.facts("onnxruntime")), "--capture", tmp_path / "out" / "x.nsys-rep"),
        path=path,
    )


def test_capture(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nsys").write_text(NSYS)
    (tmp_path / "bin/nsys").chmod(0o755)
    status, said = capture(tmp_path, tmp_path / "bin")
    assert status == 0, said
    assert "batch 1: median" in said, "the engine's queries were inside"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["x.nsys-rep", "x.nsys-rep.provenance"]


def test_capture_without_nsys_or_with_one_that_fails(tmp_path):
    status, said = capture(tmp_path, None)
    assert status == 1 and "nsys is not installed here" in said and not list((tmp_path / "out").iterdir())
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nsys").write_text("#!/bin/sh\necho no permission\nexit 1\n")
    (tmp_path / "bin/nsys").chmod(0o755)
    status, said = capture(tmp_path, tmp_path / "bin")
    assert status == 1 and "failed with status 1: no permission" in said and not list((tmp_path / "out").iterdir())
