"""Resolve a model's size, crop, interpolation, mean and std: from its row, or else from timm's record of the model.

The record (`pretrained_cfg`) is part of timm's code, so nothing is downloaded. The row takes precedence; the log and
the file name contradictions. The network is run once to check that it accepts images of this size.
"""

from core import resolved
from core.command import Command, Job, log
from core.files import write_json


def run(args: Job) -> None:
    from model import pretrained_cfg

    model = pretrained_cfg.resolve(args.row)
    write_json(args.model, model)
    log.info("timm's %s: %s", model["timm"], resolved.format_values(model))
    for key, two in model["contradicts"].items():
        text = "%s is %s in config.yaml, which takes precedence, and %s in timm's record"
        log.warning(text, key, two["config"], two["timm"])
    for key, value in model["test"].items():
        log.info("timm's record has %s %s for evaluation: `%s: %s` in the model's row takes it", key, value, key, value)


def command() -> Command:
    c = Command(__file__, __doc__, tools=("timm",))
    c.json_param("--row", help="JSON row of `models`")
    return c.output("--model", help="JSON")


if __name__ == "__main__":
    command().run(run)
