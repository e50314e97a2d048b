"""A Jetson's power modes, by name: nvpmodel's numbers mean other modes on other modules. Standard library only."""

import re
import subprocess

from core.files import system_text

MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", re.MULTILINE)
CURRENT = re.compile(r"NV Power Mode:\s*(\S+)")
STATUS = re.compile(r"pmode:(\d+)")


def modes(root="/"):
    """Return {name: number} of the modes in a board's /etc/nvpmodel.conf."""
    found = MODE.findall(system_text(f"{root}/etc/nvpmodel.conf"))
    return {name.rstrip(">"): int(number) for number, name in found}


def current(root="/"):
    """Return the name of the mode that a board is in, or None where it does not say.

    nvpmodel prints it before it complains of what only root may read; without the program, the file in which it keeps
    the mode for the next start is read.
    """
    try:
        done = subprocess.run(["nvpmodel", "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
        found = CURRENT.search(done.stdout.decode("utf-8", "replace"))
    except (OSError, subprocess.SubprocessError):
        found = None
    if found:
        return found.group(1)
    status = STATUS.search(system_text(f"{root}/var/lib/nvpmodel/status"))
    names = {number: name for name, number in modes(root).items()}
    return names.get(int(status.group(1))) if status else None


def is_same(one, other):
    """Return whether two names are of one mode: NVIDIA writes 15W on some modules and MODE_15W on others."""
    return _plain(one) == _plain(other)


def _plain(name):
    return re.sub(r"^MODE_", "", re.sub(r"[\s-]+", "_", name.strip().upper()))


def refusal(row, found, root="/"):
    """Return why nothing may be timed for a target's row in the mode `found` (None: unknown), in one line, or None.

    A row that says `other_power_mode: mark` takes any mode: the result says which it was.
    """
    asked = row.get("power_mode")
    if not asked or row.get("other_power_mode") == "mark" or (found and is_same(asked, found)):
        return None
    known = modes(root)
    wanted = next((name for name in known if is_same(name, asked)), None)
    if known and wanted is None:
        return f"power_mode {asked} is none of this board's: {', '.join(known)}"
    remedy = f"sudo nvpmodel -m {known[wanted]}" if wanted else "set it"
    here = f"the power mode is {found or 'not known'} here, and the row asks for {asked}"
    return f"{here}: {remedy}, or other_power_mode: mark"
