"""Put the workflow's scripts where their own command lines find them: first on the module path."""

import compileall
import functools
import gc
import os
import sys
from pathlib import Path

import pytest
import yaml
from xdist.scheduler import LoadScopeScheduling

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the processor
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "workflow_scripts"))
TESTS = ROOT / "tests"
sys.path[1:1] = [str(TESTS), *(str(path) for path in sorted(TESTS.iterdir()) if path.is_dir())]  # for tests that share

yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, ten times as fast
yaml.SafeDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
pytest.register_assert_rewrite("staleness", "workflow")
import forks  # noqa: E402
from staleness import base  # noqa: E402, F401 (a fixture)

if "code_hashes" in sys.modules:  # in a fork (fork_server.py)
    sys.modules["code_hashes"].look_up()


def pytest_xdist_setupnodes(config, specs):
    """Start the test processes as forks of one that has imported torch, but those of OpenVINO, which shares none."""
    compileall.compile_dir(ROOT / "workflow_scripts", quiet=1)  # once: copies of a workflow share what is compiled
    if any("runtimes" in argument for argument in config.args):
        return
    os.environ["PYTEST_XDIST_TESTRUNUID"] = config.pluginmanager.getplugin("dsession").nodemanager.testrunuid
    for spec in specs:
        spec.python = forks.python_with_torch()


def pytest_xdist_make_scheduler(config, log):
    return ByFixtures(config, log)


class ByFixtures(LoadScopeScheduling):
    """Keep the tests of a file with fixtures of its module in one process, which makes these once."""

    def _split_scope(self, nodeid):
        path = nodeid.split("::")[0]
        return path if shares_fixtures(path) else nodeid


@functools.cache
def shares_fixtures(path):
    return 'scope="module"' in (ROOT / path).read_text(encoding="utf-8")


def pytest_collection_modifyitems(items):
    """Put long tests first: else a process is left with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish():
    """Leave what was imported out of all garbage collections, and its pages shared with forks; collect seldom."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
