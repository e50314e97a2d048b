"""Lay a bundle out as a model repository for Triton Inference Server, with a client, and pack it.

The archive has the folder `models` for `--model-repository`. Equal inputs give equal bytes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from core.command import Command, Job, log
from core.files import UserError, with_digest


def run(args: Job) -> None:
    from deployment import archive, repository

    bundle = archive.read(args.bundle)
    missing = {repository.DESCRIPTION, repository.RESULT} - set(bundle)
    if missing:
        raise UserError(f"{args.bundle} has no {min(missing)}: delete it and run again")
    name = Path(args.final("repository")).name[: -len(".tar.gz")]
    files = repository.files(repository.Bundle(name, bundle, graph(args, json.loads(bundle[repository.RESULT]))))
    archive.write(args.repository, name, files)
    log.info("%d files, %.1f MB packed", len(files), os.path.getsize(args.repository) / 1e6)


def graph(args: Job, result: dict) -> bytes | None:
    """Return the graph that the result's engine was built from, or None where none is given."""
    path = with_digest(result["provenance"]["graph_sha256"], args.graphs)
    if args.graphs and path is None:
        raise UserError(f"{args.bundle} is of none of the graphs {', '.join(args.graphs)}: run again")
    return Path(path).read_bytes() if path else None


def command() -> Command:
    c = Command(__file__, __doc__, context=packed)
    c.input("--bundle", help=".tar.gz of bundle.py")
    c.input("--graphs", nargs="*", default=[], help="the result's among them, where Triton loads a graph")
    return c.output("--repository", help=".tar.gz")


def packed(args: Job) -> dict:
    """Return what else decides the bytes: the text of what is packed."""
    from deployment import repository

    return {"text": repository.digest()}


if __name__ == "__main__":
    command().run(run)
