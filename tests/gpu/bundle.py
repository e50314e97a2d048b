"""Make a bundle by its job of a kit, in the kit's folder, and run its clients in Python and C++ as a user would.

python tests/gpu/bundle.py STAGED OUT        (with the Python that has TensorRT; OUT/done.txt has what they print)
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from across import BUNDLE

HERE = Path(__file__).resolve().parent
LIBRARIES = ("tensorrt", "nvidia/cublas/lib", "nvidia/cudnn/lib", "nvidia/cuda_runtime/lib")  # below PYTHONPATH
BATCHES = (1, 64)


def main():
    staged, out = (Path(word).resolve() for word in sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    lines = []

    def say(*command, **options):
        words = [str(word) for word in command]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
        lines.append(f"$ {' '.join(words)}\n{done.stdout}status {done.returncode}\n")
        print(lines[-1], flush=True)

    say(sys.executable, HERE / "kit_part.py", "bundle")
    (packed,) = Path("results").glob("*/bundles/*.tar.gz")
    with tarfile.open(str(packed)) as archive:
        archive.extractall(str(out))
    bundle, images = next(out.glob("*/engine.json")).parent, sorted((staged / "data/images/val").rglob("*.png"))[:256]
    plain = {key: value for key, value in os.environ.items() if key not in BUNDLE}
    site = os.environ.get("PYTHONPATH", "")
    linked = {**plain, "LD_LIBRARY_PATH": os.pathsep.join(f"{site}/{name}" for name in LIBRARIES)}
    say("bash", HERE / "client.sh", staged, out / "client", bundle / "cpp", env=plain)
    python, client = [sys.executable, bundle / "classify.py"], [out / "client/classify", bundle]
    say(*python, "selftest")
    say(*client, "selftest", env=linked)
    for batch in BATCHES:
        say(*python, "--benchmark", *images, "--batch", batch)
        say(*client, "--benchmark", *images, "--batch", batch, env=linked)
    classified = {}
    for name, command, environment in (("python", python, None), ("c++", client, linked)):
        done = subprocess.run(
            [*map(str, command), *map(str, images), "--json"], stdout=subprocess.PIPE, env=environment
        )
        classified[name] = done.stdout.decode().splitlines()
    tops = [[line.split('"class"')[1].split(",")[0] for line in found] for found in classified.values()]
    lines.append(f"{sum(a == b for a, b in zip(*tops))} of {len(images)} images have one class in both clients\n")
    (out / "done.txt").write_text("\n".join(lines))
    print(lines[-1])
    sys.exit(any("status 0" not in line for line in lines[:-1]))


if __name__ == "__main__":
    main()
