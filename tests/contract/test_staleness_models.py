"""Changes of a model's row."""

import pytest

from staleness import AFTER_TRAINING, DECODING, MODEL, RESOLVED, TRAINING, Changes, row

CHANGES = Changes()
change = CHANGES.change


@change(RESOLVED, [TRAINING, *AFTER_TRAINING, *DECODING])
def crop_of_a_model(workflow):
    workflow.config(row("models", MODEL, crop=0.5))


@change(RESOLVED, [TRAINING, *AFTER_TRAINING], slow=True)
def mean_of_a_model(workflow):
    """No pixel depends on it."""
    workflow.config(row("models", MODEL, mean=[0.1, 0.2, 0.3]))


@change(RESOLVED)
def what_the_record_says_written_out(workflow):
    workflow.config(row("models", MODEL, crop_mode="center"))


@change(RESOLVED, slow=True)
def code_of_what_resolves(workflow):
    workflow.edit("workflow_scripts/resolve.py", "from core", "EXTRA = 1\nfrom core")


@pytest.mark.parametrize("name", CHANGES.names())
def test_change_costs_exactly(name, base, tmp_path):
    CHANGES.check(name, base, tmp_path / "changed")
