"""Resolve a model once: what its row leaves out of size, crop, interpolation, mean and std is timm's own record.

Nothing is downloaded: the record (`pretrained_cfg`) comes with timm's code. A value of the row is followed; where it
contradicts the record, the log and the file say so. The network is asked whether it takes images of that size.
"""

from core import resolved
from core.command import Command, Job, log
from core.files import write_json


def run(args: Job) -> None:
    from model import pretrained_cfg

    found = pretrained_cfg.resolve(args.row)
    write_json(args.model, found)
    log.info("timm's %s: %s", found["timm"], resolved.format_values(found))
    for key, two in found["contradicts"].items():
        log.warning(
            "note: %s is %s in config.yaml, which is followed, and %s in timm's record", key, two["config"], two["timm"]
        )
    for key, value in found["test"].items():
        log.info("timm's record has %s %s for evaluation: `%s: %s` in the model's row takes it", key, value, key, value)


def command() -> Command:
    c = Command(__file__, __doc__, tools=("timm",))
    c.json_param("--row", help="JSON: what the row of `models` says of the network and its images")
    return c.output("--model", help="JSON to write")


if __name__ == "__main__":
    command().run(run)
