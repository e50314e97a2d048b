"""The precision `auto`: which engine and batch size it chooses, and what it says of the others."""

import copy
import json
import subprocess
import sys

import pytest
from test_result import SHA256, VALID

import choose_precision
from conftest import ROOT
from core import objective
from core.files import UserError
from measure import paired
from planning.criterion import finalists
from reporting import choice

BUDGET = 0.3
NOISE = (1.0, 1.004, 0.997, 1.002, 1.001, 0.996, 1.003, 0.999, 1.0, 1.002, 0.998, 1.001)  # of a quiet machine's rounds
LOADED = [value * (1.1 if n % 2 else 0.9) for n, value in enumerate(NOISE)]
QUIET = {"load_before": 0.1, "load_after": 0.9, "steal_percent": 0.0, "others_percent": 0.4}


def figures(precision, speed, lost=0.0, noise=NOISE, batches=(1,)):
    """Return a candidate's result, its score on the select split and its turns at each batch, {batch: turns}.

    speed: queries a second at batch 1, or {batch: queries a second}; p99 is 1.2 times the median.
    """
    speeds = speed if isinstance(speed, dict) else dict.fromkeys(batches, speed)
    result = copy.deepcopy({**VALID, "precision": precision})
    result["benchmark"] = [{**result["benchmark"][0], "batch": batch} for batch in speeds]
    for entry in result["benchmark"]:
        entry.update(images_per_second=1.0, stable=False)  # timed at other times: nothing may depend on it
    result["provenance"]["recipe"] = {"precision": {"calibration": {}} if precision.startswith("int8") else {}}
    score = {"top1": 98.0 - lost, "fp32_top1": 98.0, "num_images": 1000, "engine_sha256": result["engine"]["sha256"]}
    turns = {
        batch: {
            "median_ms": [1000 / queries * value for value in noise],
            "images_per_second": [batch * queries / value for value in noise],
            "latency_ms": {"median": 1000 / queries, "p99": 1200 / queries},
        }
        for batch, queries in speeds.items()
    }
    return result, score, turns


def in_turns(given):
    """Return what paired_benchmark.py writes of candidates."""
    able = [given[n] for n in finalists([score for _, score, _ in given], BUDGET)]
    more = {"power_mode": None, "timed": "new", "timing_key": None, "machine": None, "beside": QUIET}
    entries = []
    for batch in sorted({batch for *_, turns in able for batch in turns}):
        several = [(r["precision"], turns[batch]) for r, _, turns in able if batch in turns]
        stable = paired.is_stable([turns["median_ms"] for _, turns in several])
        engines = [{"precision": name, "engine_sha256": SHA256, **turns} for name, turns in several]
        entries.append({"batch": batch, "stable": stable, "engines": engines, **more})
    alone = len(able) == 1 and len(entries) == 1
    return {"finalists": [r["precision"] for r, _, _ in able], "paired_benchmark": [] if alone else entries}


def weighed(given, wanted):
    """Return (all candidates, what was timed in turns)."""
    timed = in_turns(given)
    scores = [choose_precision.score_of(result, score, BUDGET) for result, score, _ in given]
    several = [choice.candidates(given[n][0], score, timed, wanted) for n, score in enumerate(scores)]
    return [one for some in several for one in some], timed


def best(wanted, *given):
    """Return ((precision, batch), {(precision, batch): verdict}) of what is chosen by an objective."""
    wanted = objective.parse(wanted)
    candidates, timed = weighed(given, wanted)
    winner = choice.choose(candidates, timed["finalists"], wanted, BUDGET)
    verdicts = {(one["precision"], one["batch"]): one["verdict"] for one in candidates}
    return (winner["precision"], winner["batch"]), verdicts


def chosen(*given):
    """Return (precision, {precision: verdict}) of what is chosen for latency among engines of one batch size."""
    (name, _), verdicts = best("latency", *given)
    return name, {precision: verdict for (precision, _), verdict in verdicts.items()}


def test_the_fastest_within_the_budget():
    name, verdicts = chosen(figures("fp32", 100), figures("fp16", 200, 0.3), figures("int8_ptq", 300, 0.5))
    assert name == "fp16" and verdicts["fp16"] == "chosen: the fastest within the budget"
    assert verdicts["fp32"] == "0.50 (0.50 to 0.50) times as fast as fp16 at batch 1"
    assert verdicts["int8_ptq"] == "loses 0.50 top-1 points on the select split, the budget is 0.30"


PAIR = figures("fp32", {1: 100, 16: 10}), figures("int8_qat", {1: 150, 16: 20})


def test_each_objective_has_its_own_best():
    assert best("latency", *PAIR)[0] == ("int8_qat", 1)
    name, verdicts = best("throughput", *PAIR)
    assert name == ("int8_qat", 16)
    assert verdicts["int8_qat", 16] == "chosen: the highest throughput within the budget"
    assert verdicts["fp32", 16] == "0.50 (0.50 to 0.50) times the throughput of int8_qat at batch 16"
    assert verdicts["int8_qat", 1] == "0.47 (0.47 to 0.47) times the throughput of int8_qat at batch 16"


def test_a_limit_leaves_out_what_is_too_slow_at_p99_and_says_its_p99():
    name, verdicts = best("throughput within 50 ms at p99", *PAIR)
    assert name == ("int8_qat", 1), "60 ms at batch 16"
    assert verdicts["int8_qat", 16] == "takes 60.000 ms at p99, the limit is 50 ms"
    assert verdicts["int8_qat", 1] == "chosen: the highest throughput within the budget and 50 ms at p99"
    assert best("throughput within 60.0 ms at p99", *PAIR)[0] == ("int8_qat", 16), "N itself is within"


def test_a_limit_that_no_candidate_keeps_to_names_the_nearest_and_the_remedies():
    with pytest.raises(UserError) as problem:
        best("throughput within 5 ms at p99", *PAIR)
    assert str(problem.value) == (
        "throughput within 5 ms at p99: no candidate within the budget keeps to it: int8_qat at batch 1 comes nearest "
        "with 8.000 ms, 3.000 ms too many: raise N"
    )
    refused = figures("int8_ptq", {1: 300}, 1.0)
    refused[0]["benchmark"][0]["latency_ms"] = {**refused[0]["benchmark"][0]["latency_ms"], "p99": 4.0}
    with pytest.raises(
        UserError, match=r"raise N, or raise the budget \(int8_ptq at batch 1 keeps to it and loses 1.00"
    ):
        best("throughput within 5 ms at p99", *PAIR, refused)
    with pytest.raises(UserError, match="fp16 at batch 8 .* raise N, or give the target a batch below 8$"):
        best("throughput within 5 ms at p99", figures("fp16", {8: 50, 16: 20}))


def test_one_that_alone_keeps_to_the_limit_is_taken_however_slow():
    name, verdicts = best("throughput within 7 ms at p99", figures("fp32", {1: 300, 16: 10}), figures("bf16", {16: 20}))
    assert name == ("fp32", 1) and verdicts[name] == "chosen: the only one within the budget and 7 ms at p99"


def test_at_a_tie_of_batch_sizes_the_smaller_one_is_taken():
    engine = figures("fp32", {1: 100, 4: 25, 16: 6.25}, noise=NOISE)
    for place, batch in enumerate((1, 4, 16)):
        turns = engine[2][batch]
        turns["images_per_second"] = [100 / value for value in NOISE[place:] + NOISE[:place]]
    name, verdicts = best("throughput", engine)
    assert name == ("fp32", 1)
    assert verdicts["fp32", 16].endswith("times the throughput of fp32 at batch 1: which is better is not known")
    larger = {**engine[2][16], "images_per_second": [101 / value for value in NOISE]}
    engine[2][4], engine[2][16] = larger, engine[2][4]
    name, verdicts = best("throughput", engine)
    assert name == ("fp32", 4), "an interval above 1 is known"


def test_at_a_tie_in_throughput_int8_is_not_taken_however_much_smaller_its_batch_is():
    int8, half = figures("int8_qat", {1: 101}, noise=NOISE[::-1]), figures("fp16", {16: 100 / 16})
    assert best("throughput", int8, half)[0] == ("int8_qat", 1)
    int8 = figures("int8_qat", {1: 101}, noise=LOADED)
    name, verdicts = best("throughput", int8, half)
    said = "chosen: int8_qat at batch 1, 1.02 (0.92 to 1.12) times the throughput, may have no more and is quantized"
    assert name == ("fp16", 16) and verdicts[name] == said


def test_an_unstable_winner_says_so():
    name, verdicts = best("throughput", figures("fp32", {1: 100}), figures("fp16", {1: 300}, noise=LOADED))
    assert name == ("fp16", 1)
    assert verdicts[name] == "chosen: the highest throughput within the budget; its turns were not stable"
    name, verdicts = best(
        "throughput within 7 ms at p99", figures("fp32", {1: 100}), figures("fp16", {1: 300}, noise=LOADED)
    )
    assert verdicts["fp32", 1] == "takes 12.000 ms at p99, the limit is 7 ms; its turns were not stable"


def test_a_candidate_that_is_refused_by_the_budget_never_wins():
    fast = figures("int8_ptq", {1: 900, 16: 900}, 0.5)
    for wanted in ("latency", "throughput", "throughput within 100 ms at p99"):
        name, verdicts = best(wanted, *PAIR, fast)
        assert (
            name[0] == "int8_qat"
            and "loses 0.50" in verdicts["int8_ptq", 1]
            and "loses 0.50" in verdicts["int8_ptq", 16]
        )


def test_what_is_not_offered_says_why():
    wanted = objective.parse("latency")
    candidates, timed = weighed(PAIR, wanted)
    for one in candidates:
        one["not_offered"] = "12 % of its MACs are INT8" if one["precision"] == "int8_qat" else None
    winner = choice.choose(candidates, timed["finalists"], wanted, BUDGET)
    assert winner["precision"] == "fp32" and candidates[2]["verdict"] == "12 % of its MACs are INT8"


@pytest.mark.parametrize("text", ["latency", "throughput", " throughput  within 2.50 ms at p99"])
def test_objectives_are_read(text):
    found = objective.parse(text)
    assert found.metric == text.split()[0] and found.limit_ms == (2.5 if "within" in text else None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "speed",
        "latency within 5 ms at p99",
        "throughput within 5 at p99",
        "throughput within x ms at p99",
        "throughput within 1e3 ms at p99",
    ],
)
def test_another_text_is_no_objective(text):
    with pytest.raises(UserError, match="is not throughput, latency, or throughput within N ms at p99"):
        objective.parse(text)


@pytest.mark.parametrize("limit", ["0", "0.0", "-5"])
def test_a_limit_is_positive(limit):
    with pytest.raises(UserError, match="N must be above 0 ms"):
        objective.parse(f"throughput within {limit} ms at p99")


def test_no_split_tells_less_than_one_of_its_images():
    result, score, _ = figures("fp16", 200, lost=0.5)
    assert choose_precision.score_of(result, {**score, "num_images": 200}, BUDGET)["within_budget"]
    assert not choose_precision.score_of(result, {**score, "num_images": 201}, BUDGET)["within_budget"]


def test_int8_that_is_slower_loses_and_says_so():
    name, verdicts = chosen(figures("fp16", 300), figures("int8_qat", 200))
    assert name == "fp16" and verdicts["int8_qat"] == "0.67 (0.67 to 0.67) times as fast as fp16 at batch 1"


def test_at_a_tie_the_engine_that_is_not_quantized_is_taken_and_it_says_so():
    name, verdicts = chosen(figures("fp32", 80), figures("bf16", 100), figures("int8_qat", 101, noise=LOADED))
    assert name == "bf16"
    said = "chosen: int8_qat at batch 1, 1.02 (0.92 to 1.12) times as fast, may be no faster and is quantized"
    assert verdicts["bf16"] == f"{said}; its turns were not stable"
    assert verdicts["int8_qat"].endswith("as bf16 at batch 1: which is better is not known; its turns were not stable")


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


def test_an_engine_without_a_batch_size_that_others_have_is_no_candidate_there():
    name, verdicts = best("latency", figures("fp32", {1: 100, 16: 10}), figures("fp16", {16: 90}))
    assert name == ("fp32", 1) and set(verdicts) == {("fp32", 1), ("fp32", 16), ("fp16", 16)}


def test_a_score_or_turns_of_another_engine_are_refused():
    given = [figures("fp32", 100), figures("int8_qat", 200)]
    results, scores, timed = [r for r, _, _ in given], [s for _, s, _ in given], in_turns(given)
    choose_precision.check(results, scores, timed)
    with pytest.raises(UserError, match="is of another engine than"):
        choose_precision.check(results, [{**scores[0], "engine_sha256": "1" * 64}, scores[1]], timed)
    timed["paired_benchmark"][0]["engines"][1]["engine_sha256"] = "1" * 64
    with pytest.raises(UserError, match="int8_qat: another engine was timed in turns"):
        choose_precision.check(results, scores, timed)


def assembled(tmp_path, *given, wanted="latency"):
    """Run the command on (precision, speed, lost) and return its result, or its only line where it fails."""
    candidates, paths = [figures(*one) for one in given], {"results": [], "select": []}
    for precision, (result, score, _) in zip([one[0] for one in given], candidates):
        for kind, value in (("results", result), ("select", score)):
            paths[kind].append(str(tmp_path / f"{precision}.{kind}.json"))
            (tmp_path / f"{precision}.{kind}.json").write_text(json.dumps(value))
    (tmp_path / "turns.json").write_text(json.dumps(in_turns(candidates)))
    words = [part for kind, names in paths.items() for part in (f"--{kind}", *names)]
    words += ["--paired-benchmark", str(tmp_path / "turns.json"), "--objective", wanted]
    words += ["--precision", "auto", "--budget", str(BUDGET), "--result", str(tmp_path / "auto.json")]
    command = [sys.executable, ROOT / "workflow_scripts" / "choose_precision.py", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        assert not (tmp_path / "auto.json").exists()
        return done.stderr.strip()
    return json.loads((tmp_path / "auto.json").read_text())


def test_a_result_of_which_none_qualifies_says_so(tmp_path):
    found = assembled(tmp_path, ("fp32", 100, 0.5), ("int8_qat", 300, 0.4))
    assert found["chosen"] == "int8_qat" and not found["accuracy"]["within_budget"]
    assert "chosen, though none is within the budget" in found["candidates"][1]["verdict"]
    assert found["paired_benchmark"] is None and found["candidates"][1]["paired"] is None
    assert found["candidates"][1]["taken"] == "apart" and found["candidates"][1]["stable"] is False


def test_result_is_the_winners_with_all_candidates_and_their_turns(tmp_path):
    fast = ("int8_qat", {1: 300, 16: 30}, 0.1)
    found = assembled(
        tmp_path, ("fp32", 100, 0.0), fast, ("int8_ptq", 400, 1.0), wanted="throughput within 50 ms at p99"
    )
    assert [found[key] for key in ("precision", "chosen", "chosen_batch")] == ["auto", "int8_qat", 16]
    assert found["objective"] == "throughput within 50 ms at p99"
    names = [(one["precision"], one["batch"], one["taken"], one["within_limit"]) for one in found["candidates"]]
    turns = "in turns"
    assert names[:3] == [("fp32", 1, turns, True), ("int8_qat", 1, turns, True), ("int8_qat", 16, turns, True)]
    assert found["candidates"][2]["latency_ms"] == {"median": 1000 / 30, "p99": 40.0}
    assert found["candidates"][2]["images_per_second"] == pytest.approx(480, rel=0.01)
    assert found["accuracy"]["within_budget"] and found["accuracy"]["budget"] == BUDGET
    ratios = [one["paired"] and round(one["paired"]["ratio"], 3) for one in found["candidates"]]
    assert ratios == [0.208, 0.625, 1.0, None]
    assert [len(entry["engines"]) for entry in found["paired_benchmark"]] == [2, 1]


def test_a_limit_that_none_keeps_to_is_one_line(tmp_path):
    said = assembled(tmp_path, ("fp32", 100, 0.0), ("bf16", 125, 0.0), wanted="throughput within 1 ms at p99")
    assert said.startswith("error: auto: throughput within 1 ms at p99: no candidate") and "\n" not in said
    assert "bf16 at batch 1 comes nearest with 9.600 ms, 8.600 ms too many: raise N" in said
