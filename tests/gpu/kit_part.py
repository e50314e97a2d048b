"""Run jobs of an unpacked kit, so that several GPUs share them.

python tests/gpu/kit_part.py NAME [WORD...]      (in its folder: the jobs with a WORD in their first output's name)

Without a word all jobs that are left run, and outputs.tar gets all outputs.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, "workflow_scripts")

import device_kit  # noqa: E402
from core.files import one_line  # noqa: E402


def main():
    name, words = sys.argv[1], sys.argv[2:]
    kit, cache, done = json.loads(Path(device_kit.KIT).read_text()), Path(".cache"), {}
    cache.mkdir(exist_ok=True)
    for path in cache.glob("part.*.json"):  # parts that run at once have records of their own
        done.update(json.loads(path.read_text()))
    device_kit.DONE = str(cache / f"part.{name}.json")
    Path(device_kit.DONE).write_text(json.dumps(done))
    if words:
        jobs = [job for job in kit["jobs"] if any(word in job["outputs"][0] for word in words)]
        device_kit.KIT, device_kit.OUTPUTS = f"{name}.json", f"{name}.tar"
        Path(device_kit.KIT).write_text(json.dumps({**kit, "jobs": jobs}))
    device_kit.run()


if __name__ == "__main__":
    one_line(main)
