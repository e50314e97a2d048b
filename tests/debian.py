"""Programs of Debian's packages that a machine may not have: fetched once, unpacked without root, never installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from workflow import REPOSITORY

PLACE = REPOSITORY / ".cache" / "debian"


def folder_of(program, package):
    """Return the folder of an installed program, or of one that is unpacked from its package; skip without both."""
    found = shutil.which(program) or PLACE / package / "usr" / "bin" / program
    if not Path(found).exists():
        _unpack(package)
    if not Path(found).exists() or subprocess.run([found, "--version"], capture_output=True).returncode:
        pytest.skip(f"no {program} here, and apt has no package {package} that runs")
    return str(Path(found).parent)


def _unpack(package):
    downloads = PLACE / "packages"
    downloads.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "-qq", package], cwd=downloads, capture_output=True)
    for archive in downloads.glob(f"{package}_*.deb"):
        subprocess.run(["dpkg-deb", "--extract", archive, PLACE / package], check=True)
