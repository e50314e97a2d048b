"""How many processors this process may use: those of its affinity, no more than the quota of its control group.

A container with `--cpus=2` sees all of its host's processors; more threads than its quota wait for each other.
"""

from __future__ import annotations

import os

from core.files import system_number, system_text

CGROUPS = "sys/fs/cgroup"
VERSION_1 = ("cpu", "cpu,cpuacct")  # folders of its controller below CGROUPS


def available(root: str | os.PathLike = "/") -> int:
    """Return the number of processors, at least 1; root: the folder that has /proc and /sys."""
    return max(1, min([seen(), *_quotas(root)]))


def seen() -> int:
    """Return the number of processors in this process's affinity, where the system has one, or all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(root):
    """Yield the processors, rounded up, that this process's control group and those above it allow, where limited."""
    for line in system_text(os.path.join(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        for name in _hierarchies(controllers):
            for folder in _upwards(os.path.join(root, CGROUPS, name), path):
                quota, period = _quota(folder)
                if quota > 0 and period > 0:
                    yield -(-quota // period)


def _hierarchies(controllers):
    """Return the folders below CGROUPS that may limit processors, by the controllers of a line of /proc/self/cgroup."""
    if not controllers:  # version 2 has one hierarchy
        return ("",)
    return VERSION_1 if "cpu" in controllers.split(",") else ()


def _upwards(top, path):
    """Yield the folder of a control group and those above it; inside a container, the first may not be there."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return (os.path.join(top, *parts[:count]) for count in range(len(parts), -1, -1))


def _quota(folder):
    words = system_text(os.path.join(folder, "cpu.max")).split()
    if len(words) == 2 and words[0].isdecimal():
        return int(words[0]), int(words[1])
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    quota, period = (system_number(os.path.join(folder, name)) or 0 for name in names)
    return quota, period
