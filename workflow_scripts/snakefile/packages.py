"""Which packages are installed where jobs run, read from the names of their metadata folders without any import."""

import functools
import json
import os
import re
import subprocess
import sys
from typing import Dict, Iterable, Optional

METADATA = re.compile(r"([^-]+)-([^-]+?)(-py[\d.]+)?\.(dist-info|egg-info)")


def versions(names: Iterable[str], python: str) -> Dict[str, Optional[str]]:
    """Return {distribution: its version in an interpreter, or None if it is not installed}."""
    installed = _installed(python, os.environ.get("PYTHONPATH"))
    return {name: installed.get(_normal(name)) for name in sorted(names)}


@functools.lru_cache(maxsize=None)
def _installed(python, _):
    """Return {distribution: version} of an interpreter; of several versions on its path, the first counts."""
    folders = filter(os.path.isdir, _path(python))
    matches = [METADATA.fullmatch(name) for folder in folders for name in sorted(os.listdir(folder))]
    return {_normal(match.group(1)): match.group(2) for match in filter(None, reversed(matches))}


def _path(python):
    if os.path.abspath(python) == os.path.abspath(sys.executable):
        return sys.path
    try:
        command = [python, "-c", "import json, sys; print(json.dumps(sys.path))"]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode())
    except (OSError, ValueError, subprocess.SubprocessError):
        return []


def _normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()
