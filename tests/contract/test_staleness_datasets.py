"""Changes of a dataset's row: its images, its splits, its training."""

import pytest

from staleness import AFTER_TRAINING, CHECKPOINT, DECODING, IMAGES, MODEL, RESOLVED, TRAINING, Changes, row

CHANGES = Changes()
change = CHANGES.change


@change(CHECKPOINT, [TRAINING, *AFTER_TRAINING])
def training_epochs(workflow):
    workflow.config(lambda config: config["datasets"]["digits"]["training"].update(epochs=77))


@change(CHECKPOINT, [TRAINING, *AFTER_TRAINING], slow=True)
def frozen_parts(workflow):
    workflow.config(lambda config: config["datasets"]["digits"]["training"].update(freeze=["stem.*"]))


@change(CHECKPOINT, [TRAINING, *AFTER_TRAINING], slow=True)
def fine_tuning_in_place_of_training(workflow):
    workflow.path(f"{MODEL}.pth").write_text("weights")
    workflow.config(row("datasets", "digits", **{"weights": "finetune", "from": "{model}.pth"}))


@change(["download_start", *CHECKPOINT], [TRAINING, *AFTER_TRAINING])
def fine_tuning_of_official_weights(workflow):
    place = workflow.path(".cache/downloads/x.pth")
    place.parent.mkdir(parents=True)
    place.write_text("weights")
    workflow.config(row("models", MODEL, url="https://example.org/x.pth", sha256="0123456789abcdef"))
    workflow.config(row("datasets", "digits", **{"weights": "finetune", "from": "official"}))


@change(["index_dataset", *IMAGES, *CHECKPOINT], [TRAINING, *AFTER_TRAINING, *DECODING])
def seed(workflow):
    workflow.config(lambda config: config.update(seed=7))


@change(["index_dataset", *IMAGES, *CHECKPOINT], [TRAINING, *AFTER_TRAINING, *DECODING], slow=True)
def splits_of_the_dataset(workflow):
    workflow.config(lambda config: config["datasets"]["digits"]["splits"].update(select=100))


@change(["index_dataset", *IMAGES, *CHECKPOINT], [TRAINING, *AFTER_TRAINING, *DECODING], slow=True)
def subset_of_the_dataset(workflow):
    """That only what is different of the images is decoded again is shown with real ones: test_images.py."""
    workflow.config(lambda config: config["datasets"]["digits"].update(subset={"classes": "0-4"}))


@change(["index_dataset", *RESOLVED])
def another_dataset_of_the_same_images(workflow):
    def rename(config):
        config["datasets"]["scans"] = config["datasets"]["digits"]
        config["dataset"] = "scans"

    workflow.config(rename)


@change(["index_dataset", *IMAGES, *CHECKPOINT], [TRAINING, *AFTER_TRAINING, *DECODING], slow=True)
def code_of_a_builtin_dataset(workflow):
    workflow.edit("workflow_scripts/data/digits.py", "VAL = ", "EXTRA = 1\nVAL = ")


@pytest.mark.parametrize("name", CHANGES.names())
def test_change_costs_exactly(name, base, tmp_path):
    CHANGES.check(name, base, tmp_path / "changed")
