"""A Jetson's power modes by name, because nvpmodel's IDs differ between modules."""

from __future__ import annotations

import re

from core.files import system_output, system_text

MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", re.MULTILINE)
CURRENT = re.compile(r"NV Power Mode:\s*(\S+)")
STATUS = re.compile(r"pmode:(\d+)")


def modes(root: str = "/") -> dict[str, int]:
    """Return {name: ID} of the modes in a board's /etc/nvpmodel.conf."""
    matches = MODE.findall(system_text(f"{root}/etc/nvpmodel.conf"))
    return {name.rstrip(">"): int(number) for number, name in matches}


def current(root: str = "/") -> str | None:
    """Return a board's current mode, None: unknown; nvpmodel prints it and may then fail for lack of root."""
    match = CURRENT.search(system_output("nvpmodel", "-q"))
    if match:
        return match.group(1)
    status = STATUS.search(system_text(f"{root}/var/lib/nvpmodel/status"))
    names = {number: name for name, number in modes(root).items()}
    return names.get(int(status.group(1))) if status else None


def is_same(one: str, other: str) -> bool:
    """Return whether two names mean one mode: some modules call it 15W, others MODE_15W."""
    return _plain(one) == _plain(other)


def _plain(name):
    return re.sub(r"^MODE_", "", re.sub(r"[\s-]+", "_", name.strip().upper()))


def refusal(row: dict, mode: str | None, root: str = "/") -> str | None:
    """Return why nothing may be timed for a row in a mode (None: unknown), or None; `mark` in the row takes any."""
    power_mode = row.get("power_mode")
    if not power_mode or row.get("other_power_mode") == "mark" or (mode and is_same(power_mode, mode)):
        return None
    known = modes(root)
    name = next((name for name in known if is_same(name, power_mode)), None)
    if known and name is None:
        return f"power_mode {power_mode} is none of this board's: {', '.join(known)}"
    remedy = f"sudo nvpmodel -m {known[name]}" if name else "set it"
    problem = f"the power mode is {mode or 'not known'} here, and the row asks for {power_mode}"
    return f"{problem}: {remedy}, or other_power_mode: mark"
