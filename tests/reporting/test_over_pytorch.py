"""Speeds over PyTorch's: which timings are compared, what a slower engine says, and where it is shown."""

import json
import math
import re

import pytest
from test_report import result

import assemble_result
import summarize
from measure import paired
from reporting import comparison, over_pytorch, page

MACHINE, OTHER = "a" * 32, "b" * 32


def on(machine, one, **identity):
    """Return a result as a machine timed it, with some facts of its device."""
    for entry in one["benchmark"]:
        entry["machine"] = machine
    one["target_identity"] = {**one["target_identity"], **identity}
    return one


def torch(precision, speed, machine=MACHINE, target="torch", **more):
    return on(machine, result(precision, speed, target=target, **more), runtime="pytorch")


def value(results, batch=16):
    over = over_pytorch.over_pytorch(results, results[0], batch)
    return over and (over.ratio.value, over.name, over.ratio.mark)


def test_the_fastest_of_pytorch_within_its_budget_is_the_rival():
    rivals = [torch("fp32", 400.0), torch("fp32", 500.0, target="torch_compiled"), torch("bf16", 900.0, within=False)]
    assert value([on(MACHINE, result("int8_qat", 1000.0)), *rivals]) == (2.0, "fp32.torch_compiled", "*")


@pytest.mark.parametrize(
    "rival",
    [
        torch("fp32", 400.0, machine=OTHER),
        torch("fp32", 400.0, model="LeViT-384"),
        on(MACHINE, torch("fp32", 400.0), device="a GPU"),
        on(MACHINE, result("fp32", 400.0)),
    ],
    ids=("another machine", "another model", "another device", "not PyTorch"),
)
def test_what_is_not_compared(rival):
    own = on(MACHINE, result("int8_qat", 1000.0))
    assert value([own, rival]) is None
    assert value([own, torch("fp32", 400.0)]) == (2.5, "fp32.torch", "*")


def test_a_machine_without_an_id_and_pytorch_itself_are_not_compared():
    assert value([on(None, result("fp32", 1000.0)), torch("fp32", 400.0, machine=None)]) is None
    assert value([result("fp32", 1000.0), torch("fp32", 400.0)]) is None, "an older result names no machine"
    assert value([torch("bf16", 800.0), torch("fp32", 400.0)]) is None


def in_turns(own, rival):
    """Return compare_pytorch.py's output for the milliseconds of each round."""
    ratio = paired.speed_ratio(own, rival)
    timed = {"median_ms": [own, rival], "stable": True, "beside": None, "timed": "new", "timing_key": None}
    entry = {"batch": 16, **ratio, "slower": ratio["ratio"] < 1, **timed}
    return {"pytorch": "fp32.torch", "pytorch_sha256": "0" * 64, "engine_sha256": "1" * 64, "batches": [entry]}


def test_turns_take_precedence():
    own = on(MACHINE, result("int8_qat", 1000.0))
    own["over_pytorch"] = assemble_result.over_pytorch_of(in_turns([1.0] * 12, [3.0] * 12))
    results = [own, torch("bf16", 900.0)]
    assert value(results) == (3.0, "fp32.torch", "")
    assert value(results, batch=1)[1:] == ("bf16.torch", "*"), "a batch that was not timed in turns"
    assert own["over_pytorch"]["engine_sha256"] == "0" * 64


@pytest.fixture
def slower(tmp_path):
    """A folder with a result that PyTorch beats, and one that beats it."""
    found = [on(MACHINE, result("fp32", 300.0)), on(MACHINE, result("int8_qat", 1000.0)), torch("fp32", 400.0)]
    for one in found:
        (tmp_path / f"{one['model']}.{one['precision']}.{one['target']}.json").write_text(json.dumps(one))
    return tmp_path


def test_a_slower_result_says_so_everywhere(slower, capsys):
    summarize.show(str(slower))
    text = capsys.readouterr().out
    assert re.search(r"over PyTorch @1 +0.75x fp32.torch \* \(slower\) +2.50x fp32.torch \*$", text, re.MULTILINE)
    assert "slower than PyTorch: fp32.cpu @1, fp32.cpu @16" in text and "`pytorch: fp32.torch`" in text
    paths = sorted(map(str, slower.iterdir()))
    found = page.render(paths, {})
    assert "0.75x <small>fp32.torch, timed apart, slower</small>" in found and "slower than PyTorch: fp32.cpu" in found
    assert 'aria-label="int8_qat.cpu: 2.50 times fp32.torch (timed apart)"' in found
    rows = {(r["precision"], r["target"], r["batch"]): r for r in over_pytorch.table_of(comparison.load(paths))}
    cells = [rows["fp32", "cpu", 16][name] for name in over_pytorch.COLUMNS]
    assert math.isclose(cells[0], 0.75) and cells[1:] == ["fp32.torch", "apart"]
    assert rows["fp32", "torch", 16]["pytorch"] is None


def test_without_pytorch_nothing_is_said(slower, capsys):
    (slower / "LeViT-128S.fp32.torch.json").unlink()
    summarize.show(str(slower))
    assert "PyTorch" not in capsys.readouterr().out.replace("against PyTorch FP32", "")
