"""TensorRT's calibration cache: a line that names the version, then `tensor: scale`, the float32 in hexadecimal."""

import re
import struct
from pathlib import Path

from files import UserError

HEADER = re.compile(r"TRT-\d+-EntropyCalibration2")


def header(version):
    """Return the first line of a cache for a TensorRT version such as 8.5.3.1."""
    major, minor, patch = ([int(part) for part in re.findall(r"\d+", version)] + [0, 0])[:3]
    number = major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch
    return f"TRT-{number}-EntropyCalibration2"


def text(scales, version):
    """Return the cache of {tensor name: scale} for a TensorRT version: equal text for equal scales."""
    lines = [f"{name}: {hexadecimal(scale)}" for name, scale in sorted(scales.items())]
    return "\n".join([header(version), *lines]) + "\n"


def hexadecimal(scale):
    """Return the big-endian hexadecimal digits of a scale as float32: 1.0 is 3f800000."""
    return struct.pack(">f", scale).hex()


def read(path):
    """Return {tensor name: scale} of a cache file, of whatever version; raise UserError where it is none."""
    try:
        first, *lines = Path(path).read_text(encoding="utf-8").splitlines() or [""]
        pairs = [line.rsplit(": ", 1) for line in lines if line]
        scales = {name: struct.unpack(">f", bytes.fromhex(digits))[0] for name, digits in pairs}
    except (ValueError, struct.error):
        first = ""
    if not HEADER.fullmatch(first):
        raise UserError(f"{path} is not a TensorRT calibration cache: delete it and run again")
    return scales
