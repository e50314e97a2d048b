"""What a run prints by default, with both Snakemakes: a line for each job, and the error last."""

import re

import pytest

from workflow import SNAKEMAKE, SNAKEMAKE7, Workflow, jobs_of

GRAPH = "results/digits/quantized/LeViT-tiny.int8_qat.cpu.onnx"
CHECKPOINT = "results/digits/checkpoints/LeViT-tiny.pth"
OWN = {"LEVIT_SNAKEMAKE_OUTPUT": ""}  # the lines, in dry runs as well
LINE = re.compile(r"\[ *(\d+)/10\] (\w+) +(\S+): (.*) in [\d.]+ s")


@pytest.fixture(params=[SNAKEMAKE, SNAKEMAKE7], ids=["9", "7"])
def workflow(tmp_path, request):
    if not request.param.exists():
        pytest.skip("no Snakemake 7: `make .venv7` makes it")
    return Workflow.fresh(tmp_path / "run", snakemake=request.param)


def printed(workflow, *arguments, **variables):
    """Return (status, the lines that are printed after those of Snakemake's start)."""
    status, output = workflow.run(*arguments, **{**OWN, **variables})
    lines = [line for line in output.splitlines() if "profile" not in line and "pkg_resources" not in line]
    return status, lines


def test_from_a_dry_run_to_an_error(workflow):
    status, lines = printed(workflow, "-n", "--", GRAPH)
    assert status == 0 and len(lines) == 11 and lines[-1].startswith("10 jobs would run: "), lines
    assert f"train             {CHECKPOINT}: missing; after index_dataset, resolve" in lines
    status, lines = printed(workflow, "--", GRAPH)
    found = [LINE.fullmatch(line) for line in lines[:10]]
    assert status == 0 and [match.group(1) for match in found] == [str(n) for n in range(1, 11)], lines
    assert found[-1].group(3, 4) == (GRAPH, "made") and lines[12] == f"made:  {GRAPH}" and len(lines) == 13, lines
    assert printed(workflow, "--", GRAPH)[1][0].startswith("Nothing to be done")

    workflow.path(GRAPH).unlink()
    workflow.path("results/digits/qat/LeViT-tiny.int8_qat.pth").unlink()
    _, lines = printed(workflow, "--", GRAPH)
    assert "train_qat" in lines[0] and ": from the store in " in lines[0] and ", 2 from the store" in lines[-2], lines

    with workflow.path(CHECKPOINT).open("a") as stream:
        stream.write("x")
    status, lines = printed(workflow, "--", GRAPH)
    assert status == 1 and lines[-1].startswith(f"error: {CHECKPOINT} is not what train wrote"), lines
    assert all(": failed after " in line for line in lines[:-2]) and "jobs are done" in lines[-2], lines
    assert 3 <= len(lines) <= 4, lines  # two jobs that read it may start at once
    assert printed(workflow, "--quiet", "all", "--", GRAPH) == (1, lines[-1:])


@pytest.mark.parametrize("options, variables", [(["--printshellcmds"], {}), ([], {"LEVIT_SNAKEMAKE_OUTPUT": "1"})])
def test_what_snakemake_prints_by_itself(workflow, options, variables):
    _, lines = printed(workflow, "-n", *options, "--", CHECKPOINT, **variables)
    assert len(jobs_of("\n".join(lines))) == 3, lines
