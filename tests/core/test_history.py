"""Histories of results: what is taken down before a run, what is one entry, what survives damage."""

import json
import os

import pytest
from test_report import result

import record_history
from core import history
from core.files import read_json


class Job:
    def __init__(self, **outputs):
        self.output = outputs


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a result of a known date: {write, path}."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/history").mkdir(parents=True)
    return tmp_path


NAME = "LeViT-128S.fp32.cpu.json"


def write(speed, day, path=f"results/{NAME}", **more):
    with open(path, "w") as stream:
        json.dump({**result("fp32", speed), **more}, stream)
    os.utime(path, (day * 86_400, day * 86_400))
    return path


def record():
    """Run the job; return its entries' dates and speeds."""
    record_history.command().run(
        record_history.run, ["--result", f"results/{NAME}", "--history", f"results/history/{NAME}"]
    )
    entries = read_json(f"results/history/{NAME}")["entries"]
    return [(one["date"][:10], one["benchmark"][0]["images_per_second"]) for one in entries]


def replaced():
    """Do as a run does whose jobs are pending: take down, then remove."""
    jobs = [Job(result=f"results/{NAME}"), Job(history=f"results/history/{NAME}"), Job(engine="results/other")]
    history.save(jobs)
    for job in jobs:
        for path in job.output.values():
            if os.path.exists(path):
                os.unlink(path)


def test_each_result_that_was_replaced_is_an_entry(place):
    write(100.0, 1)
    assert record() == [("1970-01-02", 100.0)]
    replaced()
    write(200.0, 2)
    assert record() == [("1970-01-02", 100.0), ("1970-01-03", 200.0)]


def test_results_that_were_never_recorded_are_taken_down_as_well(place):
    for day, speed in enumerate((100.0, 200.0, 300.0), 1):
        write(speed, day)
        replaced()
    write(400.0, 4)
    assert [speed for _, speed in record()] == [100.0, 200.0, 300.0, 400.0]


def test_what_says_the_same_is_one_entry_of_the_earlier_date(place):
    write(100.0, 1)
    record()
    write(100.0, 5)  # copied, or made again of the same artifacts with a kept timing
    replaced()
    write(100.0, 6)
    assert record() == [("1970-01-02", 100.0)]


def test_a_history_outlives_the_cache_and_the_results(place):
    write(100.0, 1)
    record()
    replaced()
    write(200.0, 2)
    record()
    (place / history.FOLDER / NAME).unlink()
    replaced()
    write(300.0, 3)
    assert [speed for _, speed in record()] == [100.0, 200.0, 300.0], "results/history/ alone is enough"
    replaced()
    write(400.0, 4)
    assert [speed for _, speed in record()] == [100.0, 200.0, 300.0, 400.0], ".cache/history/ alone is enough"


def test_only_the_latest_are_kept(place):
    several = [history.entry(result("fp32", float(n + 1)), f"{n:04}") for n in range(70)]
    assert [one["date"] for one in history.merged(several)][:1] == ["0020"] and len(
        history.merged(several)
    ) == history.MOST


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', "\x00"])
def test_a_damaged_file_is_no_entry_and_no_error(place, text):
    with open(f"results/{NAME}", "w") as stream:
        stream.write(text)
    history.save_file(f"results/{NAME}")
    history.save_file("results/missing.json")
    assert history.saved_entries(f"results/{NAME}") == []
    with pytest.raises(SystemExit):
        record()


def test_a_result_of_the_first_version_is_an_entry():
    from test_result_file import OLD

    (one,) = history.entries_of(OLD[0])
    assert one["accuracy"]["top1"] > 98 and one["engine"]["int8_share_of_macs"] is None
