"""The processors that a process may use: in a container, no more than its quota."""

import os
import types

import pytest

from core import processors
from snakefile import nodes

SEEN = len(os.sched_getaffinity(0))
LIMITS = {  # {what limits: ({file: text}, processors of a machine with 64)}
    "nothing": ({}, 64),
    "no quota": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
    "docker run --cpus=1.5": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "less than one": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
    "more than there are": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 64),
    "a slice of systemd": (
        {
            "proc/self/cgroup": "0::/user.slice/job.scope\n",
            "sys/fs/cgroup/user.slice/job.scope/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/cpu.max": "300000 100000\n",
        },
        3,
    ),
    "version 1 in a container": (
        {
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "version 1 without a quota": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        64,
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_quota_limits_processors(name, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    files, count = LIMITS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert processors.available(tmp_path) == count


def test_this_machine_has_some():
    assert 1 <= processors.available() <= SEEN


@pytest.mark.parametrize(("given", "left"), [(64, 2), (100, 100), (8, 8), (1, 1), (None, None)])
def test_snakemake_takes_no_more_than_the_quota_where_it_takes_all(monkeypatch, given, left):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(processors, "available", lambda: 2)
    workflow = types.SimpleNamespace(global_resources={"_cores": given}, _cores=given)
    nodes.keep_to_quota(workflow)
    assert workflow.global_resources["_cores"] == left, "what was asked for by number stays"
