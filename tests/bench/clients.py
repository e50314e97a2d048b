"""A bundle's clients from files to classes, against its engine alone: classify.py and, where CMake is there, C++.

    python tests/bench/clients.py BUNDLE.tar.gz [FOLDER]     # of JPEG and PNG; by default 64 JPEGs of 640 x 480

Prints Markdown. The clients take turns, and this Python must have what the bundle's requirements.txt lists. A ratio is
of two rates that one process measured one after the other; that to the benchmark's figure is of different times.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import turns

BATCHES, ROUNDS, SECONDS = (1, 16), 5, 2.0


def photos(folder):
    """Write smooth JPEGs."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(64):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3)).astype(np.uint8))
        coarse.resize((640, 480), Image.BICUBIC).save(folder / f"{number}.jpg", quality=90)
    return folder


def commands(bundle):
    """Return {name: command} of the clients of an unpacked bundle; the one in C++ is compiled."""
    found = {"classify.py": [sys.executable, bundle / "classify.py"]}
    if (bundle / "cpp").is_dir() and shutil.which("cmake"):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for step in (["cmake", "-S", "cpp", "-B", "build"], ["cmake", "--build", "build"]):
            subprocess.run(step, cwd=bundle, env={**os.environ, "PATH": path}, check=True, stdout=subprocess.DEVNULL)
        found["C++"] = [bundle / "build/classify", bundle]
    return found


def rates(command, batch, images):
    """Return (from files to classes, of the engine alone), in images per second."""
    turns.wait_for_calm(turns.PATIENCE)
    given = ["--benchmark", f"--batch={batch}", f"--seconds={SECONDS}"]
    given = [word for pair in given for word in pair.split("=")]
    lines = subprocess.run([*command, *given, images], check=True, capture_output=True, text=True).stdout.splitlines()
    return tuple(float(line.split()[0]) for line in lines[:2])


def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help=".tar.gz")
    parser.add_argument("images", nargs="?", help="folder of JPEG and PNG files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(args.bundle) as archive:
            archive.extractall(place, filter="data")
        (bundle,) = Path(place).iterdir()
        images = args.images or photos(Path(place, "photos"))
        result, clients = json.loads((bundle / "result.json").read_text()), commands(bundle)
        timed = {entry["batch"]: entry["images_per_second"] for entry in result["benchmark"]}
        keys = [(name, batch) for batch in BATCHES for name in clients]
        found = {key: [] for key in keys}
        for _ in range(ROUNDS):
            for name, batch in keys:
                found[name, batch].append(rates(clients[name], batch, images))
    print(
        "| client | batch | images/s from files | of the engine alone | benchmark's figure |",
        "| --- " * 5 + "|",
        sep="\n",
    )
    for (name, batch), pairs in found.items():
        ends = statistics.median(end for end, _ in pairs)
        alone, figure = spread([end / engine for end, engine in pairs]), timed.get(batch)
        print(
            f"| {name} | {batch} | {ends:.1f} | {alone} | {f'{ends / figure:.2f} of {figure:.1f}' if figure else ''} |"
        )


if __name__ == "__main__":
    main()
