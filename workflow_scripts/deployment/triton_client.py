"""Classify images by a Triton Inference Server that serves this folder's `models`; README.md says how to start it.

    python3 client.py photo.jpg photos/            a line for each image, with its most probable classes
    python3 client.py --url http://host:8000 ...   another server
    python3 client.py ready                        exit status 0 once the server can answer, within --wait seconds
    python3 client.py selftest                     compare the logits of the samples with those recorded
    python3 client.py --benchmark --clients 8      images per second from so many clients at once

It needs Python 3.8 or later and no package; classes.txt has to lie beside it. The exit status is 0 if every image was
classified. The server does the rest: files of JPEG, PNG and what else Pillow reads are sent as they are.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import struct
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
IMAGE, LOGITS, PREPROCESS = "image", "logits", ".preprocess"
TIMEOUT = 60  # seconds that a server may be silent
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class Problem(Exception):
    """An error that the client prints in one line."""


class Server:
    """A server that speaks the HTTP/JSON protocol, version 2, and the model that is asked."""

    def __init__(self, url: str, model: str | None):
        """model: by default the only ensemble of its kind."""
        self.url = url.rstrip("/")
        self.model = model or self._ensemble()
        self.most = self._get(f"v2/models/{self.model}/config")["max_batch_size"]

    def _get(self, path, body=None, headers=None):
        try:
            request = urllib.request.Request(f"{self.url}/{path}", body, headers or {})
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise Problem(_reason(error)) from None
        except (OSError, ValueError) as error:
            raise Problem(f"{self.url} does not answer as a Triton server ({error}): is it started?") from None

    def _ensemble(self):
        names = {model["name"] for model in self._get("v2/repository/index", b"{}")}
        ensembles = sorted(name for name in names if name + PREPROCESS in names)
        if len(ensembles) != 1:
            raise Problem(f"{self.url} serves {', '.join(ensembles) or 'no such model'}: name one with --model")
        return ensembles[0]

    def logits(self, images: list[bytes]) -> list[list[float]]:
        """Return the logits of each of some image files, at most `most`; raise Problem with the server's reason."""
        data = b"".join(struct.pack("<I", len(image)) + image for image in images)
        size = {"binary_data_size": len(data)}
        sent = {"name": IMAGE, "shape": [len(images), 1], "datatype": "BYTES", "parameters": size}
        wanted = {"name": LOGITS, "parameters": {"binary_data": False}}
        header = json.dumps({"inputs": [sent], "outputs": [wanted]}).encode()
        length = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
        (output,) = self._get(f"v2/models/{self.model}/infer", header + data, length)["outputs"]
        width = output["shape"][1]
        return [output["data"][start : start + width] for start in range(0, len(output["data"]), width)]


def _reason(error):
    text = error.read().decode(errors="replace")
    try:
        text = json.loads(text)["error"]
    except (ValueError, KeyError, TypeError):
        text = text or f"HTTP {error.code}"
    return " ".join(text.split())


def wait(url: str, seconds: float) -> None:
    """Return once a server is ready; raise Problem if it is not within some seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/v2/health/ready", timeout=TIMEOUT):
                return
        except (OSError, ValueError) as error:
            if time.monotonic() >= end or isinstance(error, ValueError):
                raise Problem(f"{url} is not ready after {seconds:g} s ({error}): read the server's log") from None
        time.sleep(0.2)


def files(sources: list[str]) -> Iterator[Path]:
    """Yield the images of some files and folders; raise Problem for what is neither."""
    for source in map(Path, sources):
        if source.is_dir():
            images = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
            if not images:
                raise Problem(f"{source} has no images")
            yield from images
        elif source.exists():
            yield source
        else:
            raise Problem(f"{source}: no such file or folder")


def top(logits: list[float], classes: list[str], count: int) -> list[dict]:
    """Return the most probable classes of an image: class, index, probability and logit of each."""
    if len(logits) != len(classes):
        raise Problem(f"classes.txt has {len(classes)} classes, and the model {len(logits)}: it is of another model")
    if not all(map(math.isfinite, logits)):
        raise Problem("the model's logits are not finite: run selftest")
    powers = [math.exp(value - max(logits)) for value in logits]
    order = sorted(range(len(logits)), key=lambda index: -logits[index])[: max(count, 1)]
    return [
        {"class": classes[i], "index": i, "probability": round(powers[i] / sum(powers), 6), "logit": logits[i]}
        for i in order
    ]


def classify(server: Server, args: argparse.Namespace) -> int:
    """Print a line for each image; one that fails is sent once more by itself, so that the others of its batch pass."""
    classes, failed = (HERE / "classes.txt").read_text(encoding="utf-8").splitlines(), 0
    images, most = files(args.images), max(server.most, 1)
    for group in iter(lambda: list(itertools.islice(images, min(args.batch or most, most))), []):
        for path, answer in zip(group, _answers(server, [path.read_bytes() for path in group])):
            if isinstance(answer, Problem):
                failed = 1
                print(f"error: {path}: {answer}", file=sys.stderr)
                continue
            best = top(answer, classes, args.top)
            text = f"{path}: " + ", ".join(f"{one['class']} {one['probability']:.1%}" for one in best)
            print(json.dumps({"image": str(path), "top": best}) if args.json else text, flush=True)
    return failed


def _answers(server, images):
    """Return the logits of each image, or the Problem that it has."""
    try:
        return server.logits(images)
    except Problem as problem:
        return [problem] if len(images) == 1 else [_answers(server, [image])[0] for image in images]


def selftest(server: Server) -> int:
    """Print the largest difference of each sample's logits; return 0 if all are within the recorded tolerance."""
    recorded, failed = json.loads((HERE / "samples/samples.json").read_bytes()), 0
    for sample in recorded["samples"]:
        (logits,) = server.logits([(HERE / "samples" / sample["file"]).read_bytes()])
        errors = [abs(one - other) for one, other in zip(logits, sample["logits"])]
        within = len(logits) == len(sample["logits"]) and all(error <= recorded["tolerance"] for error in errors)
        failed |= not within
        verdict = "within" if within else "NOT within"
        print(f"{sample['file']}: logits differ by {max(errors):.5f}: {verdict} {recorded['tolerance']:.5f}")
    print("selftest failed" if failed else "selftest passed")
    return int(failed)


def benchmark(server: Server, args: argparse.Namespace) -> int:
    """Print images per second and the latency of a query, from clients that ask again once they are answered."""
    images = [path.read_bytes() for path in files(args.images or [str(HERE / "samples")])]
    count = min(args.batch or 1, max(server.most, 1))

    def client(number):
        source, latencies, end = itertools.cycle(images), [], time.monotonic() + args.seconds
        while time.monotonic() < end:
            start = time.perf_counter()
            server.logits(list(itertools.islice(source, count)))
            latencies.append(1000 * (time.perf_counter() - start))
        return latencies

    list(ThreadPoolExecutor().map(lambda image: server.logits([image]), images[:1]))
    begin = time.perf_counter()
    with ThreadPoolExecutor(args.clients) as pool:
        latencies = sorted(ms for one in pool.map(client, range(args.clients)) for ms in one)
    rate = count * len(latencies) / (time.perf_counter() - begin)
    median, p99 = (latencies[min(int(len(latencies) * share), len(latencies) - 1)] for share in (0.5, 0.99))
    what = f"{args.clients} clients, {count} images a query"
    print(f"{rate:10.1f} images/s from {what}: median {median:.2f} ms, p99 {p99:.2f} ms")
    return 0


def _positive(kind):
    def read(text):
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not a positive number")
        return value

    read.__name__ = "positive number"
    return read


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", help="files and folders; or one of the words ready, selftest")
    parser.add_argument("--url", default="http://localhost:8000", help="of the server (http://localhost:8000)")
    parser.add_argument("--model", help="name of the ensemble, where the server has several")
    parser.add_argument("--top", type=_positive(int), default=5, help="classes of each image (5)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each image")
    parser.add_argument("--batch", type=_positive(int), help="images of a query, by default as many as the model takes")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds for the word ready (60)")
    parser.add_argument("--benchmark", action="store_true", help="time the images, by default the samples")
    parser.add_argument("--clients", type=_positive(int), default=8, help="of the timing (8)")
    parser.add_argument("--seconds", type=_positive(float), default=3.0, help="of the timing (3)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for; return the exit status."""
    if args.images == ["ready"]:
        wait(args.url, args.wait)
        return 0
    server = Server(args.url, args.model)
    if args.images == ["selftest"]:
        return selftest(server)
    return benchmark(server, args) if args.benchmark else classify(server, args)


if __name__ == "__main__":
    for stream in filter(None, (sys.stdout, sys.stderr)):  # names may be none of this terminal's
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    options = parser()
    given = options.parse_args()
    if not (given.images or given.benchmark):
        options.error("which images? Files or folders; or ready, selftest or --benchmark")
    try:
        sys.exit(run(given))
    except (Problem, OSError) as problem:
        sys.exit(f"error: {problem}")
