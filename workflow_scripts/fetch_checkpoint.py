"""Download a checkpoint and check its SHA-256, or take it from the folder of files that were put there by hand.

A file of the address's name in that folder is taken, if it has the wanted hash, and nothing is asked of the network;
with $LEVIT_OFFLINE set, nothing ever is. What has arrived of a download is kept beside the target as
{target}.download.partial, also when the job fails or is killed, and the next run asks the server for the rest. The
target appears only once the whole file has the wanted hash.
"""

import http.client
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from core import addresses
from core.command import Command, log
from core.files import UserError, partial_of, sha256_file

BLOCK = 1 << 18
TIMEOUT = 30  # seconds without a byte
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may be gone a moment later


class Interrupted(Exception):
    """The transfer stopped for a reason that may pass."""


class Unreachable(UserError):
    """The transfer stopped once more than is worth trying."""


def produce(args):
    import shutil

    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", args.sha256):
        raise UserError(f"--sha256 {args.sha256!r} must be the first 8 to 64 hex digits of the file's SHA-256")
    offered = Path(args.downloads, addresses.file_name(args.url))
    if offered.is_file():
        shutil.copyfile(_checked(offered, args.sha256), args.checkpoint)
        return
    by_hand, shown = f"put it at {offered} by hand", addresses.public(args.url)
    if os.environ.get("LEVIT_OFFLINE"):
        raise UserError(f"LEVIT_OFFLINE is set and {offered.name} is not here: fetch {shown} elsewhere and {by_hand}")
    try:
        fetch(args)
    except Unreachable as problem:
        raise UserError(f"{problem}; or {by_hand}") from None


def _checked(path, prefix):
    """Return the path of a file that was put there by hand; raise UserError where it has another hash."""
    if _matches(path, prefix):
        return path
    raise UserError(
        f"{path}: its SHA-256 is {sha256_file(path)[:16]}..., not {prefix}: damaged, or another file: replace it"
    )


def fetch(args):
    """Download into the file that is kept, and give it its name once it has the wanted hash."""
    kept = partial_of(f"{_target(args.checkpoint)}.download")
    resumed = os.path.exists(kept)
    _download(args.url, kept, args.attempts, args.delay)
    if not _matches(kept, args.sha256) and resumed:
        log.info("what was kept of an earlier download is not of this file: from the start")
        os.unlink(kept)
        _download(args.url, kept, args.attempts, args.delay)
    if not _matches(kept, args.sha256):
        digest, size, shown = sha256_file(kept), os.path.getsize(kept), addresses.public(args.url)
        os.unlink(kept)
        raise UserError(
            f"{shown}: SHA-256 of the {size} bytes received is {digest[: max(8, len(args.sha256))]}..., "
            f"not {args.sha256}: damaged, or another file; correct `sha256` or `url` in config.yaml, or try again"
        )
    os.replace(kept, args.checkpoint)


def _target(partial):
    return partial[: -len(".partial")] if partial.endswith(".partial") else partial


def _matches(path, prefix):
    return sha256_file(path).startswith(prefix.lower())


def _download(url, kept, attempts, delay):
    """Fetch url into `kept`, going on after what is there; retry, with growing pauses, while there is hope."""
    failures, best, shown = 0, _size(kept), addresses.public(url)
    while True:
        try:
            return _transfer(url, kept)
        except Interrupted as reason:
            failures = 1 if _size(kept) > best else failures + 1
            best = max(best, _size(kept))
            if failures >= attempts:
                raise Unreachable(
                    f"{shown}: {reason}, {attempts} times; {_size(kept)} bytes are kept, run again to continue"
                ) from None
            pause = delay * 2 ** (failures - 1)
            log.info("%s: %s; again in %g s", shown, reason, pause)
            time.sleep(pause)


def _size(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


def _transfer(url, kept):
    """Make one request for what is missing and append it; raise Interrupted where that was not all."""
    start, shown = _size(kept), addresses.public(url)
    Path(kept).parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(_request(addresses.whole(url), start), timeout=TIMEOUT) as answer:
            if getattr(answer, "status", None) != 206:
                start = 0  # the server sends the whole file, whatever it was asked
            _receive(answer, kept, start)
    except urllib.error.HTTPError as error:
        _explain(shown, error)
    except urllib.error.URLError as error:
        if isinstance(error.reason, FileNotFoundError) or url.startswith("file:"):
            raise UserError(f"{shown}: {error.reason}: correct `url` in config.yaml") from None
        raise Interrupted(f"no connection ({error.reason})") from None
    except ValueError as error:
        said = addresses.hide(str(error), addresses.whole(url))
        raise UserError(f"{shown}: {said}: correct `url` in config.yaml") from None
    except http.client.HTTPException as error:
        raise Interrupted(f"the server's answer broke off ({type(error).__name__})") from None
    except (TimeoutError, ConnectionError) as error:
        raise Interrupted(f"the connection broke ({error})") from None


def _request(url, start):
    """Return the request for what is missing; user and password go to the address's own host alone."""
    place, authorization = addresses.without_user(url)
    request = urllib.request.Request(place, headers={"User-Agent": "levit-tensorrt", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    return request


def _explain(shown, error):
    if error.code == 416:  # nothing is left to send: the hash says whether what is there is the file
        return
    if error.code in PASSING:
        raise Interrupted(f"the server answered {error.code} {error.reason}") from None
    raise UserError(f"{shown}: the server answered {error.code} {error.reason}: correct `url` in config.yaml") from None


def _receive(answer, kept, start):
    from core import progress

    length = answer.headers.get("Content-Length")
    expected = start + int(length) if length else None
    with open(kept, "r+b" if start else "wb") as stream, progress.bar(expected or 0, "download", "B") as bar:
        stream.seek(start)
        bar.update(start)
        for block in iter(lambda: answer.read(BLOCK), b""):
            stream.write(block)
            bar.update(len(block))
        size = stream.tell()
    if expected is not None and size < expected:
        raise Interrupted(f"the connection ended after {size} of {expected} bytes")


def command():
    c = Command(__file__, __doc__)
    c.param("--url", required=True, help="http, https or file; proxies and secrets come from the environment")
    c.param("--sha256", required=True, help="the hash's first hex digits, 8 at least")
    c.output("--checkpoint", help="file to write")
    folder = os.environ.get("LEVIT_DOWNLOADS") or ".cache/downloads"
    c.setting("--downloads", default=folder, help="folder of files put there by hand ($LEVIT_DOWNLOADS)")
    c.setting("--attempts", type=int, default=5, help="failures in a row before giving up")
    c.setting("--delay", type=float, default=1.0, help="seconds before the first retry; doubled each time")
    return c


if __name__ == "__main__":
    command().run(produce)
