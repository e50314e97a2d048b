"""Records beside artifacts: whoever reads one refuses other bytes, whatever its time says; none is a warning."""

import hashlib
import json
import logging
import os

import pytest

from core import provenance
from core.files import UserError


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "results/digits/plans/M.json"
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as stream:
        stream.write(b"x" * 1000)
    provenance.write(path, {"sha256": hashlib.sha256(b"x" * 1000).hexdigest(), "command": "plan_precision"})
    return path


def half_zeroed(path):
    """Zero half of a file and keep its size and time, as a failing disk does."""
    kept = os.stat(path)
    with open(path, "r+b") as stream:
        stream.write(bytes(kept.st_size // 2))
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))


def test_the_record_of_whole_bytes_is_given(plan, caplog):
    assert provenance.check(plan)["command"] == "plan_precision" and not caplog.records


def test_other_bytes_are_refused_whatever_their_time_and_the_door_is_named(plan):
    provenance.check(plan)
    half_zeroed(plan)
    with pytest.raises(
        UserError, match=r"M.json is not what plan_precision wrote .*delete it.*`fallback: {plan: FILE}`"
    ):
        provenance.check(plan)


def test_without_a_record_there_is_one_warning_for_artifacts_and_none_for_other_files(plan, caplog):
    provenance.forget(plan)
    with open("mine.json", "w") as stream:
        stream.write("{}")
    with caplog.at_level(logging.WARNING, logger="levit"):
        assert provenance.check_all([plan, plan, "mine.json"]) == [None, None, None]
    assert [record.getMessage() for record in caplog.records] == [
        f"no record says what wrote {plan} and 1 more: used as is"
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": 1}'])
def test_a_damaged_record_is_refused_in_a_line(plan, text):
    with open(provenance.beside(plan), "w") as stream:
        stream.write(text)
    with pytest.raises(UserError, match="M.json.provenance is damaged: delete "):
        provenance.check(plan)


def test_a_record_holds_no_time(plan):
    with open(provenance.beside(plan), encoding="utf-8") as stream:
        assert set(json.load(stream)) == {"sha256", "command"}
