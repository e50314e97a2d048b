"""envs/ pins every package by version, and all sides have the same pins unless a pin says why not."""

import re
import subprocess
import sys
from importlib import metadata

import pytest

from workflow import REPOSITORY

FILES = sorted((REPOSITORY / "envs").glob("*.txt"))
PIN = re.compile(r"^([a-z0-9-]+)==([0-9][\w.+!]*)((?: ; [^#]+)?)(?:  # (.+))?$")


def pins(path):
    """Return {package: (version, marker, reason or None)} of a file."""
    found = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            match = PIN.match(line)
            assert match, f"{path.name}: {line!r} is not an exact pin"
            name, version, marker, reason = match.groups()
            assert name not in found, f"{path.name}: {name} stands twice"
            found[name] = (version, marker.strip(" ;"), reason)
    return found


HOST = pins(REPOSITORY / "envs/host.txt")


def test_sides():
    sides = {"host", "snakemake7", "gpu-trt8", "gpu-trt10", "jetson-jp5", "jetson-jp6", "jetson-jp7"}
    assert {path.stem for path in FILES} >= sides


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_pins_equal_the_hosts_or_say_why_not(path):
    for name, (version, _, reason) in pins(path).items():
        if name in HOST and version != HOST[name][0]:
            assert reason, f"{path.name}: {name} is {version}, host.txt has {HOST[name][0]}, and no reason is given"


def test_devices_agree_with_each_other():
    devices = {path.stem: pins(path) for path in FILES if path.stem not in ("host", "snakemake7", "triton")}
    for name in set().union(*devices.values()):
        found = {side: table[name] for side, table in devices.items() if name in table}
        assert len({version for version, _, _ in found.values()}) == 1 or all(why for _, _, why in found.values()), name


@pytest.mark.parametrize("path", [p for p in FILES if p.stem.startswith("jetson")], ids=lambda path: path.stem)
def test_nothing_shadows_what_jetpack_brings(path):
    """TensorRT, CUDA and cuDNN of a board are the image's: a package of them in its environment would come first."""
    assert not [name for name in pins(path) if name.startswith(("tensorrt", "nvidia-", "torch"))]


def test_what_is_installed_is_what_is_pinned():
    """And nothing that the project uses is missing: pip finds no broken requirement."""
    if not sys.prefix.startswith(str(REPOSITORY)):
        pytest.skip("not in the environment that `make env` makes")
    for name, (version, marker, _) in HOST.items():
        if not marker or sys.platform == "linux":
            assert metadata.version(name) == version, name
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
