"""The precision `auto`: which engine it chooses, and what it says of the others."""

import copy
import json
import subprocess
import sys

import pytest
from test_result import SHA256, VALID

import choose_precision
from conftest import ROOT
from core.files import UserError
from measure import paired
from planning.criterion import finalists

BUDGET = 0.3
NOISE = (1.0, 1.004, 0.997, 1.002, 1.001, 0.996, 1.003, 0.999, 1.0, 1.002, 0.998, 1.001)  # of a quiet machine's rounds


def figures(precision, speed, lost=0.0, noise=NOISE, batches=(1, 16)):
    """Return a candidate's result, its score on the select split and its milliseconds in each round of turns."""
    result = copy.deepcopy({**VALID, "precision": precision})
    result["benchmark"] = [{**result["benchmark"][0], "batch": batch} for batch in batches]
    for entry in result["benchmark"]:
        entry.update(images_per_second=1.0, stable=False)  # timed at other times: nothing may depend on it
    result["provenance"]["recipe"] = {"precision": {"calibration": {}} if precision.startswith("int8") else {}}
    score = {"top1": 98.0 - lost, "fp32_top1": 98.0, "num_images": 1000, "engine_sha256": result["engine"]["sha256"]}
    return result, score, [1000 / speed * value for value in noise]


def in_turns(candidates):
    """Return what paired_benchmark.py writes of candidates."""
    able = [candidates[n] for n in finalists([score for _, score, _ in candidates], BUDGET)]
    engines = [{"precision": r["precision"], "engine_sha256": SHA256, "median_ms": times} for r, _, times in able]
    more = {"power_mode": None, "timed": "new", "timing_key": None}
    stable = len(able) == 1 or paired.is_stable([times for _, _, times in able])
    entries = [{"batch": batch, "stable": stable, "engines": engines, **more} for batch in (1, 16)]
    names = [result["precision"] for result, _, _ in able]
    return {"finalists": names, "paired_benchmark": entries if len(able) > 1 else []}


def chosen(*candidates):
    """Return (precision, {precision: verdict}) of what is chosen."""
    weighed = choose_precision.weigh([c[0] for c in candidates], [c[1] for c in candidates], BUDGET)
    winner = choose_precision.choose(weighed, in_turns(candidates), BUDGET)
    return winner["precision"], {one["precision"]: one["verdict"] for one in weighed}


def test_the_fastest_within_the_budget():
    name, verdicts = chosen(figures("fp32", 100), figures("fp16", 200, 0.3), figures("int8_ptq", 300, 0.5))
    assert name == "fp16" and verdicts["fp16"] == "chosen: the fastest within the budget"
    assert verdicts["fp32"] == "0.50 (0.50 to 0.50) times as fast as fp16"
    assert verdicts["int8_ptq"] == "loses 0.50 top-1 points on the select split, the budget is 0.30"


def test_no_split_tells_less_than_one_of_its_images():
    result, score, _ = figures("fp16", 200, lost=0.5)
    assert choose_precision.weigh([result], [{**score, "num_images": 200}], BUDGET)[0]["within_budget"]
    assert not choose_precision.weigh([result], [{**score, "num_images": 201}], BUDGET)[0]["within_budget"]


def test_int8_that_is_slower_loses_and_says_so():
    name, verdicts = chosen(figures("fp16", 300), figures("int8_qat", 200))
    assert name == "fp16" and verdicts["int8_qat"] == "0.67 (0.67 to 0.67) times as fast as fp16"


def test_at_a_tie_the_engine_that_is_not_quantized_is_taken_and_it_says_so():
    loaded = [value * (1.1 if n % 2 else 0.9) for n, value in enumerate(NOISE)]
    name, verdicts = chosen(figures("fp32", 80), figures("bf16", 100), figures("int8_qat", 101, noise=loaded))
    assert name == "bf16"
    said = "chosen: int8_qat, 1.02 (0.92 to 1.12) times as fast, may be no faster and is quantized"
    assert verdicts["bf16"] == f"{said}; its turns were not stable"
    assert verdicts["int8_qat"].endswith("as bf16: which is faster is not known; its turns were not stable")


def test_int8_whose_interval_is_above_1_is_taken_however_little_that_is():
    assert chosen(figures("bf16", 100), figures("int8_qat", 103, noise=NOISE[::-1]))[0] == "int8_qat"
    assert chosen(figures("bf16", 100), figures("int8_qat", 100.1, noise=NOISE[::-1]))[0] == "bf16"


def test_between_two_quantized_engines_the_faster_one_is_taken():
    assert chosen(figures("int8_ptq", 100), figures("int8_qat", 101), figures("fp32", 50))[0] == "int8_qat"


def test_a_tie_of_two_alike_is_decided_by_what_they_lose_and_then_by_their_order_not_by_chance():
    for noises in ((NOISE, NOISE[::-1]), (NOISE[::-1], NOISE), (NOISE[3:] + NOISE[:3], NOISE)):
        first, second = figures("fp32", 100, noise=noises[0]), figures("bf16", 100.1, noise=noises[1])
        assert chosen(first, second)[0] == "fp32"
    better = figures("int8_qat", 100, 0.0, NOISE[::-1])
    name, verdicts = chosen(figures("fp32", 50), figures("int8_ptq", 100.2, 0.2), better)
    assert name == "int8_qat" and verdicts["int8_qat"].endswith("may be no faster and loses more top-1 points")


def test_one_finalist_needs_no_turns():
    name, verdicts = chosen(figures("fp32", 100), figures("int8_qat", 300, 0.4))
    assert name == "fp32" and verdicts["fp32"] == "chosen: the only one within the budget"


def test_where_none_qualifies_the_best_is_given_and_said():
    name, verdicts = chosen(figures("fp16", 100, 0.5), figures("int8_ptq", 300, 2.0), figures("int8_qat", 200, 0.5))
    assert name == "int8_qat"
    said = "chosen, though none is within the budget: loses 0.50 top-1 points on the select split, the budget is 0.30"
    assert verdicts["int8_qat"] == said
    assert "loses 0.50" in chosen(figures("fp16", 100, 0.5))[1]["fp16"]


def test_batches_in_common():
    pair = figures("fp32", 100, batches=(1, 16)), figures("fp16", 90, batches=(16,))
    assert [one["batch"] for one in choose_precision.weigh(*zip(*(c[:2] for c in pair)), 1)] == [16, 16]
    with pytest.raises(UserError, match="no batch size in common"):
        choose_precision.weigh(*zip(*(c[:2] for c in (figures("fp32", 9, batches=(1,)), pair[1]))), 1)


def test_a_score_or_turns_of_another_engine_are_refused():
    result, score, _ = figures("fp32", 100)
    with pytest.raises(UserError, match="is of another engine than"):
        choose_precision.weigh([result], [{**score, "engine_sha256": "1" * 64}], 1)
    candidates = [figures("fp32", 100), figures("int8_qat", 200)]
    timed = in_turns(candidates)
    timed["paired_benchmark"][0]["engines"][1] = {"precision": "int8_qat", "engine_sha256": "1" * 64}
    with pytest.raises(UserError, match="int8_qat: another engine was timed in turns"):
        choose_precision.check([result for result, _, _ in candidates], timed)


def assembled(tmp_path, *given):
    """Run the command on (precision, speed, lost) and return its result."""
    candidates, paths = [figures(*one) for one in given], {"results": [], "select": []}
    for precision, (result, score, _) in zip([one[0] for one in given], candidates):
        for kind, value in (("results", result), ("select", score)):
            paths[kind].append(str(tmp_path / f"{precision}.{kind}.json"))
            (tmp_path / f"{precision}.{kind}.json").write_text(json.dumps(value))
    (tmp_path / "turns.json").write_text(json.dumps(in_turns(candidates)))
    words = [part for kind, names in paths.items() for part in (f"--{kind}", *names)]
    words += ["--paired-benchmark", str(tmp_path / "turns.json")]
    words += ["--precision", "auto", "--budget", str(BUDGET), "--result", str(tmp_path / "auto.json")]
    command = [sys.executable, ROOT / "workflow_scripts" / "choose_precision.py", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "auto.json").read_text())


def test_a_result_of_which_none_qualifies_says_so(tmp_path):
    found = assembled(tmp_path, ("fp32", 100, 0.5), ("int8_qat", 300, 0.4))
    assert found["chosen"] == "int8_qat" and not found["accuracy"]["within_budget"]
    assert "chosen, though none is within the budget" in found["candidates"][1]["verdict"]
    assert found["paired_benchmark"] is None and found["candidates"][1]["paired"] is None


def test_result_is_the_winners_with_all_candidates_and_their_turns(tmp_path):
    found = assembled(tmp_path, ("fp32", 100, 0.0), ("int8_qat", 300, 0.1), ("int8_ptq", 400, 1.0))
    assert (found["precision"], found["chosen"]) == ("auto", "int8_qat")
    assert [one["precision"] for one in found["candidates"]] == ["fp32", "int8_qat", "int8_ptq"]
    assert found["accuracy"]["within_budget"] and found["accuracy"]["budget"] == BUDGET
    assert [one["paired"] and round(one["paired"]["ratio"], 3) for one in found["candidates"]] == [0.333, 1.0, None]
    assert [engine["precision"] for engine in found["paired_benchmark"][0]["engines"]] == ["fp32", "int8_qat"]
