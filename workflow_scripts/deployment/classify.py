"""Classify images with the engine beside this file, which README.md describes.

    python3 classify.py photo.jpg photos/                a line for each image, with its most probable classes
    python3 classify.py --json http://camera/stream      JPEG or MJPEG over HTTP; JSON, one object a line
    ffmpeg ... -f mjpeg - | python3 classify.py -        standard input: an image, or one JPEG after another
    python3 classify.py selftest                         compare the logits of the samples with those recorded
    python3 classify.py --benchmark [photos/]            images per second from JPEG or PNG to classes

It needs Python 3.8 or later and the packages of requirements.txt. The exit status is 0 if every image was classified.
In a program: `from classify import classifier`, then `classifier().classify([open("photo.jpg", "rb").read()])`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
SUMS = "SHA256SUMS"


def damaged(folder: str) -> str | None:
    """Return what is wrong with the files that SHA256SUMS lists in a bundle's folder, or None."""
    with open(os.path.join(folder, SUMS), encoding="utf-8") as stream:
        expected = [line.rstrip("\n").split("  ", 1) for line in stream]
    for digest, name in expected:
        try:
            with open(os.path.join(folder, name), "rb") as stream:
                content = stream.read()
        except OSError as error:
            return f"{name}: {error.strerror}: unpack the bundle again"
        if hashlib.sha256(content).hexdigest() != digest:
            return f"{name} is not the file of the bundle ({SUMS}): unpack it again, or take your own file's line out"
    return None


def classifier(threads: int | None = None, folder: str = HERE) -> Any:
    """Return the Classifier of this bundle (levit/deployment/classifier.py). threads: by default, as it was timed."""
    from deployment.classifier import Classifier

    return Classifier(folder, threads)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", help="files, folders, http:// addresses, `-`; or the word selftest")
    parser.add_argument("--top", type=_positive(int), default=5, help="classes of each image (5)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each image")
    parser.add_argument("--logits", action="store_true", help="with all logits of each image, in JSON")
    parser.add_argument(
        "--batch", type=_positive(int), help="images of a query, by default what the engine was built for"
    )
    parser.add_argument("--threads", type=int, help="of the runtime on the processor (0: all cores)")
    parser.add_argument("--benchmark", action="store_true", help="time the images, by default the samples")
    parser.add_argument("--seconds", type=_positive(float), default=3.0, help="of each timing (3)")
    return parser


def _positive(kind):
    def read(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not a positive number")
        return value

    read.__name__ = "positive number"
    return read


def run(args: argparse.Namespace, folder: str) -> int:
    """Do what the command line asks for, with the bundle in a folder; return the exit status."""
    try:
        from deployment import benchmark, selftest, stream
    except ImportError as error:
        sys.exit(f"error: {error}: python3 -m pip install -r {os.path.join(folder, 'requirements.txt')}")
    model = classifier(args.threads, folder)
    for warning in model.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if args.images == ["selftest"]:
        return selftest.run(model)
    if args.benchmark:
        return benchmark.run(model, args.images, args.batch, args.seconds)
    failed = 0
    for name, logits, problem in stream.classified(model, args.images, args.batch):
        if problem:
            failed = 1
            print(f"error: {problem}", file=sys.stderr)
        else:
            print(line(model, name, logits, args), flush=True)
    return failed


def line(model: Any, name: str, logits: Any, args: argparse.Namespace) -> str:
    """Return the line of an image. logits: float32 [classes]."""
    top = model.top(logits, args.top)
    if not (args.json or args.logits):
        return f"{name}: " + ", ".join(f"{one['class']} {one['probability']:.1%}" for one in top)
    more = {"logits": [float(f"{value:.6g}") for value in logits]} if args.logits else {}
    return json.dumps({"image": name, "top": top, **more})


def main(argv: list[str] | None = None, folder: str = HERE) -> None:
    """Run the command line; print any problem as one line, and exit with a status."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # names may be no text, or none of this terminal's
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    options = parser()
    args = options.parse_args(argv)
    if not (args.images or args.benchmark):
        options.error("which images? Files, folders, http:// addresses or `-`; or selftest, or --benchmark")
    try:
        problem = damaged(folder)
        if problem:
            sys.exit(f"error: {problem}")
        from core.files import one_line
    except (OSError, ValueError) as error:
        sys.exit(f"error: {SUMS} cannot be read ({error}): unpack the bundle again")
    one_line(lambda: sys.exit(run(args, folder)))


if __name__ == "__main__":
    main()
