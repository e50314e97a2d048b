"""What the contract tests run in place of the interpreter: real command lines, keys and store, with the work replaced.

    fake_interpreter.py workflow_scripts/train.py --index ... --checkpoint ...

The work writes bytes that depend only on what the store's key covers, so equal inputs give equal bytes, and adds a line
to the file $LEVIT_WORK. $LEVIT_PAUSE names a command that waits a minute in the middle of its first output,
$LEVIT_LOSES one and whether it says that a `budget` or a `plan` is not met.
"""

import functools
import hashlib
import os
import runpy
import sys
import time
import types

script = sys.argv[1]
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(os.path.abspath(script)))

from core import command  # noqa: E402
from core.files import canonical, digest_of  # noqa: E402

LOSSES = {"budget": ',"accuracy":{"within_budget":false}', "plan": ',"plan":{"met":false}'}


def index_of(digest):
    """Return the rest of an index of one image: what decoding asks of it."""
    image = {"path": "x", "label": 0, "bytes": 1, "sha256": digest}
    splits = dict.fromkeys(("calib", "select", "val"), [0])
    content = train_of(digest)
    train = {"file": "train.tsv", "images": 1, "sha256": hashlib.sha256(content.encode()).hexdigest()}
    return "," + canonical({"classes": [], "root": ".", "images": [image], "splits": splits, "train": train})[1:-1]


def train_of(digest):
    """Return the text of the file of one training image."""
    return f"0\t1\tsha256:{digest}\tx\n"


def model_of(row):
    """Return the rest of a model's file: the row, and figures for what it leaves out."""
    told = {"size": 224, "crop": 0.9, "crop_mode": "center", "interpolation": "bicubic"}
    told.update(mean=[0.5] * 3, std=[0.5] * 3)
    return "," + canonical({**told, **row})[1:-1]


def work(command, job):
    """Write the outputs of a command, {"made_of": a hash of what decides them}, and a line on the work."""
    parts = command.key_parts(job)
    outputs = {name: getattr(job, name) for name in command.outputs}
    seen = digest_of({**parts, "tools": None})  # of images: another Pillow reads the same
    names = [job.final(name).replace("results/", "") for name in outputs]
    with open(os.environ["LEVIT_WORK"], "a", encoding="utf-8") as stream:
        again = os.environ.get("LEVIT_RETIME", "")
        line = {"command": parts["command"], "heavy": command.heavy, "outputs": names, "again": again}
        stream.write(canonical(line) + "\n")
    for name, path in outputs.items():
        with open(path, "w", encoding="utf-8") as stream:
            if name == "train_images":
                stream.write(train_of(seen))
                continue
            stream.write('{"made_of":')
            stream.flush()
            if os.environ.get("LEVIT_PAUSE") == parts["command"]:
                time.sleep(60)
            command, _, what = os.environ.get("LEVIT_LOSES", "").partition(" ")
            loses = LOSSES[what] if command == parts["command"] else ""
            rest = index_of(seen) if name == "index" else ""
            rest += model_of(job.row) if name == "model" else ""
            stream.write(f'"{digest_of(parts)}","output":"{name}"{loses}{rest}' + "}\n")


if "--print" not in sys.argv:  # the table that is printed after a run reads real results
    run = command.Command.run
    command.Command.run = lambda self, _, argv=None: run(self, functools.partial(work, self), argv)
    if "code_hashes" in sys.modules:  # in a fork (fork_server.py)
        sys.modules["code_hashes"].look_up()
    # weights that the replaced work wrote are not weights, and to read a user's would import torch
    sys.modules["model.checkpoint"] = types.SimpleNamespace(part_of=lambda *_: None)
    runpy.run_path(script, run_name="__main__")
