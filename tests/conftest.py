"""Put the workflow's scripts where their own command lines find them: first on the module path."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the processor
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "workflow_scripts"))
TESTS = ROOT / "tests"
sys.path[1:1] = [str(TESTS), *(str(path) for path in sorted(TESTS.iterdir()) if path.is_dir())]  # for tests that share

pytest.register_assert_rewrite("staleness", "workflow")
from staleness import base  # noqa: E402, F401 (a fixture)
