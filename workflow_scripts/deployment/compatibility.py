"""Whether a bundle's engine runs on this machine: what it was made on, compared with what is here."""

from __future__ import annotations

from core.files import UserError

DEMANDED = ("version", "architecture", "compute_capability", "isa")  # facts that an engine depends on
PORTABLE = {  # runtime: those of them that its engines do not depend on
    "pytorch": ("architecture", "compute_capability", "isa"),
    "tensorrt_rtx": ("compute_capability",),
}
NOTED = ("device", "driver", "compute_capability")  # facts that may change speed and logits


def check(recorded: dict, here: dict) -> list[str]:
    """Return warnings on how this machine differs from the recorded one; raise UserError if the engine demands it.

    recorded: the identity of the target in the result; here: the facts of this machine for its runtime.
    """
    made = f"the engine was built for {recorded['runtime']} {recorded['version']} on {recorded['device']}"
    if here["version"] is None:
        raise UserError(f"{made}, and {recorded['runtime']} is not installed here: requirements.txt has it")
    for key in DEMANDED:
        if recorded.get(key) != here.get(key) and key not in PORTABLE.get(recorded["runtime"], ()):
            raise UserError(f"{made}: {_differ(key, recorded.get(key), here.get(key))}: {_remedy(key, recorded)}")
    pairs = [(key, recorded.get(key), here.get(key)) for key in NOTED if recorded.get(key) != here.get(key)]
    return [f"{made}: {_differ(*pair)}: run selftest; speed may differ" for pair in pairs]


def _differ(key, recorded, here):
    if isinstance(recorded, list) and isinstance(here, list):
        missing, more = (" ".join(x for x in a if x not in b) for a, b in ((recorded, here), (here, recorded)))
        parts = [f"this processor has no {missing}"] if missing else []
        return ", ".join(parts + ([f"this processor has {more} as well"] if more else []))
    return f"{key} is {here or 'none'} here, and was {recorded or 'none'}"


def _remedy(key, recorded):
    if key == "version":
        return f"install {recorded['runtime']} {recorded['version']}, or make a bundle with this one"
    return "make a bundle on a machine like this one"
