"""Pack an engine with all that runs it elsewhere: preprocessing, classes, clients, samples, a model card.

On the target: the engine's logits for the samples, and the versions of its packages, are of this machine. For a
precision that chooses, the engine is the chosen one. Equal inputs give equal bytes.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from pathlib import Path

from core import resolved
from core.command import Command, Job, engine_command, log
from core.files import UserError, with_digest
from reporting import result_file

PREPROCESSING = (*resolved.GEOMETRY, *resolved.NORMALIZATION)
SCHEMA = "urn:levit-tensorrt:bundle:1"  # the $id of rules/schemas/bundle.schema.yaml
DAMAGE = (zipfile.BadZipFile, ValueError, KeyError)


def run(args: Job) -> None:
    from deployment import archive, card, classify, requirements

    result, names = result_file.current(args.result), class_names(args)
    engine = with_digest(result["engine"].get("sha256"), args.engines)
    if engine is None:
        raise UserError(f"{args.result} is of none of the engines {', '.join(args.engines)}: run again")
    files = {
        **archive.client(args.runtime),
        **sample_files(args.samples),
        "model.engine": Path(engine).read_bytes(),
        "classes.txt": "".join(f"{' '.join(name.split())}\n" for name in names).encode(errors="backslashreplace"),
        "preprocess.json": text({key: result["preprocessing"][key] for key in PREPROCESSING}),
        "result.json": Path(args.result).read_bytes(),
        "requirements.txt": requirements.text(args.runtime, args.identity).encode(),
    }
    if result["engine"]["plugin"]:
        files["plugin.so"] = Path(args.plugin).read_bytes()
    files.update(recorded(files, result))
    files["README.md"] = card.text(result, result["preprocessing"], names, args.licenses, set(files)).encode()
    files[classify.SUMS] = archive.checksums(files)
    archive.write(args.bundle, Path(args.final("bundle")).name[: -len(".tar.gz")], files)
    log.info("%d files, %.1f MB packed", len(files), os.path.getsize(args.bundle) / 1e6)


def text(value: object) -> bytes:
    """Return a value as the bytes of indented JSON."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def class_names(args: Job) -> list[str]:
    """Return the readable names of the classes, in the order of the logits."""
    from data import index

    table = index.read(args.index)
    return table.get("titles") or table["classes"]


def sample_files(path: str) -> dict[str, bytes]:
    """Return the members of pick_samples.py's file, below samples/; raise UserError if it is another file."""
    try:
        with zipfile.ZipFile(path) as members:
            return {f"samples/{name}": members.read(name) for name in members.namelist()}
    except DAMAGE:
        raise UserError(f"{path} is not the file of samples: delete it and run again") from None


def recorded(files: dict[str, bytes], result: dict) -> dict[str, bytes]:
    """Return samples.json, with the engine's logits here and what they may differ by elsewhere, and engine.json."""
    import numpy as np

    from deployment import selftest
    from deployment.classifier import Classifier

    with tempfile.TemporaryDirectory() as folder:
        for name in ("model.engine", "plugin.so", "classes.txt", "preprocess.json", "result.json"):
            if name in files:
                Path(folder, name).write_bytes(files[name])
        model = Classifier(folder)
        listed = json.loads(files["samples/samples.json"])
        pixels = np.stack([model.pixels(files[f"samples/{one['file']}"], one["file"]) for one in listed])
        logits = np.stack([model.logits(image[None])[0] for image in pixels])
        samples = [{**one, "logits": list(map(selftest.rounded, row))} for one, row in zip(listed, logits)]
        measured = {
            "schema": SCHEMA,
            "engine_sha256": result["engine"]["sha256"],
            "recorded_on": result["target_identity"],
            "samples": samples,
            "tolerance": selftest.tolerance(model, pixels, logits),
        }
        return {"samples/samples.json": text(measured), "engine.json": text(model.tensors())}


def command() -> Command:
    c = engine_command(__file__, __doc__, heavy=True)
    c.context = packed
    c.input("--result").input("--engines", nargs="+", help="the result's among them")
    c.input("--index", content=class_names).input("--samples", help="zip of pick_samples.py")
    c.json_param("--licenses", help="JSON: of the weights and of the images")
    return c.output("--bundle", help=".tar.gz")


def packed(args: Job) -> dict:
    """Return what else decides the bytes: the text of what is packed, and the versions of this machine's packages."""
    from deployment import archive, requirements

    return {"text": archive.digest(args.runtime), "requirements": requirements.text(args.runtime, args.identity)}


if __name__ == "__main__":
    command().run(run)
