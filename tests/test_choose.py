"""The precision `auto`: which engine it chooses, and what it says of the others."""

import copy
import json
import subprocess
import sys

import pytest

import choose_precision
from conftest import ROOT
from files import UserError
from test_result import VALID

BUDGET = 0.3


def figures(precision, speed, lost=0.0, stable=True, batches=(1, 16)):
    """Return a candidate's result and its score on the select split."""
    result = copy.deepcopy({**VALID, "precision": precision})
    result["benchmark"] = [{**result["benchmark"][0], "batch": batch} for batch in batches]
    for entry in result["benchmark"]:
        entry.update(images_per_second=speed * entry["batch"], stable=stable)
    top1 = {"top1": 98.0 - lost, "fp32_top1": 98.0, "num_images": 1000}
    return result, {"engine_sha256": result["engine"]["sha256"], **top1}


def chosen(*candidates):
    """Return (precision, {precision: verdict}) of what is chosen."""
    weighed = choose_precision.weigh(*zip(*candidates), BUDGET)
    winner = choose_precision.pick(weighed)
    return winner["precision"], {c["precision"]: choose_precision.verdict(c, winner, BUDGET) for c in weighed}


def test_the_fastest_within_the_budget():
    name, verdicts = chosen(figures("fp32", 100), figures("fp16", 200, 0.3), figures("int8_ptq", 300, 0.5))
    assert name == "fp16" and verdicts["fp16"] == "chosen: the fastest within the budget"
    assert verdicts["fp32"] == "0.50 times as fast as fp16"
    assert verdicts["int8_ptq"] == "loses 0.50 top-1 points on the select split, the budget is 0.30"


def test_no_split_tells_less_than_one_of_its_images():
    result, score = figures("fp16", 200, lost=0.5)
    assert choose_precision.weigh([result], [{**score, "num_images": 200}], BUDGET)[0]["within_budget"]
    assert not choose_precision.weigh([result], [{**score, "num_images": 201}], BUDGET)[0]["within_budget"]


def test_int8_that_is_slower_loses_and_says_so():
    name, verdicts = chosen(figures("fp16", 300), figures("int8_qat", 200))
    assert name == "fp16" and verdicts["int8_qat"] == "0.67 times as fast as fp16"


def test_a_timing_that_is_not_stable_is_not_chosen():
    name, verdicts = chosen(figures("fp32", 100), figures("int8_qat", 300, stable=False))
    assert name == "fp32" and verdicts["int8_qat"] == "its timing is not stable"


def test_where_none_qualifies_the_best_is_given_and_said():
    name, verdicts = chosen(figures("fp16", 100, 0.5), figures("int8_ptq", 300, 2.0), figures("int8_qat", 200, 0.5))
    assert name == "int8_qat"
    said = "chosen, though none is within the budget: loses 0.50 top-1 points on the select split, the budget is 0.30"
    assert verdicts["int8_qat"] == said
    assert chosen(figures("fp16", 100, stable=False))[1]["fp16"] == "chosen, though no timing is stable"


def test_speeds_are_of_a_batch_that_all_have():
    weighed = choose_precision.weigh(*zip(figures("fp32", 100, batches=(1, 16)), figures("fp16", 90, batches=(16,))), 1)
    assert [one["batch"] for one in weighed] == [16, 16]
    with pytest.raises(UserError, match="no batch size in common"):
        choose_precision.weigh(*zip(figures("fp32", 100, batches=(1,)), figures("fp16", 90, batches=(16,))), 1)


def test_a_score_of_another_engine_is_refused():
    result, score = figures("fp32", 100)
    with pytest.raises(UserError, match="scored with another engine"):
        choose_precision.weigh([result], [{**score, "engine_sha256": "1" * 64}], 1)


def assembled(tmp_path, *candidates):
    """Run the command on (precision, speed, lost) and return its result."""
    paths = {"results": [], "select": []}
    for precision, speed, lost in candidates:
        for kind, value in zip(paths, figures(precision, speed, lost)):
            paths[kind].append(str(tmp_path / f"{precision}.{kind}.json"))
            (tmp_path / f"{precision}.{kind}.json").write_text(json.dumps(value))
    given = [part for kind, names in paths.items() for part in (f"--{kind}", *names)]
    given += ["--precision", "auto", "--budget", str(BUDGET), "--result", str(tmp_path / "auto.json")]
    command = [sys.executable, ROOT / "workflow_scripts" / "choose_precision.py", *given]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "auto.json").read_text())


def test_a_result_of_which_none_qualifies_says_so(tmp_path):
    found = assembled(tmp_path, ("fp32", 100, 0.5), ("int8_qat", 300, 0.4))
    assert found["chosen"] == "int8_qat" and not found["accuracy"]["within_budget"]
    assert "chosen, though none is within the budget" in found["candidates"][1]["verdict"]


def test_result_is_the_winners_with_all_candidates(tmp_path):
    found = assembled(tmp_path, ("fp32", 100, 0.0), ("int8_qat", 300, 0.1), ("int8_ptq", 400, 1.0))
    assert (found["precision"], found["chosen"]) == ("auto", "int8_qat")
    assert [one["precision"] for one in found["candidates"]] == ["fp32", "int8_qat", "int8_ptq"]
    assert found["accuracy"]["within_budget"] and found["accuracy"]["budget"] == BUDGET
    assert found["benchmark"][0]["images_per_second"] == 300
