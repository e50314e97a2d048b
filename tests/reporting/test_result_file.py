"""Results that are read again: older ones are completed, changed, truncated, foreign and newer ones are named."""

import copy
import json

import pytest
from test_result import VALID

import summarize
from conftest import ROOT
from core import provenance
from core.files import UserError, sha256_file
from reporting import comparison, page, result_file

OLD = sorted(map(str, (ROOT / "docs/measurements/h200-tensorrt-8.5.3.1").glob("LeViT-128S.*.gpu.json")))


@pytest.fixture
def written(tmp_path):
    """A result as its job wrote it, with its record."""
    path = tmp_path / "results" / "LeViT-128S.int8_qat.cpu.json"
    path.parent.mkdir()
    path.write_text(json.dumps(VALID))
    provenance.write(str(path), {"sha256": sha256_file(path), "command": "assemble_result"})
    return path


def test_results_of_the_first_version_are_read_by_the_table_and_the_page():
    assert len(OLD) == 2
    results = comparison.load(OLD)
    assert [result["schema_version"] for result in results] == [1, 1]
    table = comparison.table_of(results)
    assert table[0]["reformats"] is None and table[0]["ratio_to_trtexec"] is None and table[0]["top1"] > 98
    assert "LeViT-128S" in page.render(OLD, {})


def test_one_of_today_is_read_as_it_is(written):
    assert result_file.read(str(written)) == VALID
    assert result_file.current(str(written)) == VALID
    with pytest.raises(UserError, match="fp16.gpu.json: an older version of the project wrote it: run snakemake"):
        result_file.current(OLD[0])


def test_a_truncated_or_an_edited_result_is_noticed_by_the_table(written, capsys):
    whole = written.read_text()
    other = written.with_name("LeViT-128S.fp32.cpu.json")
    other.write_text(whole.replace("int8_qat", "fp32"))
    for text in (whole[: len(whole) // 2], whole.replace("98.0", "99.9"), ""):
        written.write_text(text)
        lines = summarize.show(str(written.parent))
        assert len(lines) == 1 and f"{written} is not what assemble_result wrote" in lines[0]
        assert "fp32" in capsys.readouterr().out, "the others are shown all the same"


FOREIGN = {
    "empty": "",
    "half": '{"model": "a", "prec',
    "a list": "[]",
    "another's": '{"model": "a"}',
    "parts of a kind": json.dumps({**VALID, "engine": []}),
    "timings of a kind": json.dumps({**VALID, "benchmark": [3]}),
    "version of a kind": json.dumps({**VALID, "schema_version": "x"}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_result_is_named(tmp_path, kind):
    path = tmp_path / "a.b.c.json"
    path.write_text(FOREIGN[kind])
    with pytest.raises(UserError, match="a.b.c.json is not"):
        result_file.read(str(path))


def test_a_newer_result_is_named(tmp_path):
    newer = copy.deepcopy(VALID)
    newer["schema_version"] = 99
    (tmp_path / "a.b.c.json").write_text(json.dumps(newer))
    with pytest.raises(UserError, match=r"is of schema version 99, and this project reads up to 2: update it"):
        result_file.read(str(tmp_path / "a.b.c.json"))
