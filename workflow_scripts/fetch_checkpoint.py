"""Download a checkpoint and check its SHA-256, or copy it from the folder of manually downloaded files.

A file in that folder with the name in the address is used if it has the wanted hash; no request is made then, and none
at all if $LEVIT_OFFLINE is set. An interrupted transfer resumes where it stopped, for as long as the job runs.
"""

import argparse
import os
import re
import shutil
import time
import urllib.parse
from pathlib import Path

import requests
import urllib3

from core import addresses, progress
from core.command import Command, log
from core.files import UserError, sha256_file

BLOCK = 1 << 18  # bytes
LEAST_RATE = 1024  # bytes per second; a slower transfer is stopped
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that may be gone a moment later


class Interrupted(Exception):
    """The transfer stopped for a reason that may pass."""


def run(args: argparse.Namespace) -> None:
    """Write args.checkpoint; raise UserError if no file with the hash args.sha256 can be had."""
    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", args.sha256):
        raise UserError(f"--sha256 {args.sha256!r} must be the first 8 to 64 hex digits of the file's SHA-256")
    local, shown = Path(args.downloads, addresses.file_name(args.url)), addresses.public(args.url)
    if args.url.startswith("file:"):
        local = Path(urllib.parse.unquote(urllib.parse.urlsplit(args.url).path))
    if local.is_file():
        shutil.copyfile(local, args.checkpoint)
        _check(args, local, "replace it")
    elif os.environ.get("LEVIT_OFFLINE"):
        raise UserError(f"LEVIT_OFFLINE is set: download {shown} elsewhere and put it at {local} by hand")
    else:
        Path(args.checkpoint).unlink(missing_ok=True)  # a killed job's
        _download(args, f"put it at {local} by hand")
        _check(args, shown, "correct `sha256` or `url` in config.yaml, or try again")


def _check(args, origin, remedy):
    """Raise UserError if the checkpoint has another hash; origin: where it is from."""
    digest, size = sha256_file(args.checkpoint), os.path.getsize(args.checkpoint)
    if not digest.startswith(args.sha256.lower()):
        mismatch = f"the SHA-256 of its {size} bytes is {digest[: max(8, len(args.sha256))]}..., not {args.sha256}"
        raise UserError(f"{origin}: {mismatch}: damaged or another file; {remedy}")


def _download(args, by_hand):
    """Make up to args.attempts requests, with pauses that double, until the file is complete."""
    shown = addresses.public(args.url)
    for attempt in range(args.attempts):
        try:
            return _transfer(args)
        except Interrupted as error:
            reason, pause = str(error), args.delay * 2**attempt
        if attempt + 1 < args.attempts:
            log.info("%s: %s; again in %g s", shown, reason, pause)
            time.sleep(pause)
    raise UserError(f"{shown}: {reason}, attempt {args.attempts} of {args.attempts}: run again, or {by_hand}")


def _transfer(args):
    """Request the missing bytes and append them; raise Interrupted if some are missing still.

    Texts of requests' errors may quote addresses with secrets, so only the innermost cause is shown.
    """
    whole, shown = addresses.whole(args.url), addresses.public(args.url)
    start = os.path.getsize(args.checkpoint) if os.path.exists(args.checkpoint) else 0
    place, authorization = addresses.without_user(whole)  # requests sends the header to this host alone
    headers: dict = {"Accept-Encoding": "identity", "Authorization": authorization}
    headers["Range"] = f"bytes={start}-" if start else None  # requests leaves out what is None
    try:
        with requests.get(place, headers=headers, stream=True, timeout=args.patience) as answer:
            status = f"the server answered {answer.status_code} {answer.reason}"
            if answer.status_code in TRANSIENT:
                raise Interrupted(status)
            if not answer.ok:
                raise UserError(f"{shown}: {status}: correct `url` in config.yaml")
            _receive(answer, args, start if answer.status_code == 206 else 0)
    except ValueError as error:
        raise UserError(f"{shown}: {addresses.hide(str(error), whole)}: correct `url` in config.yaml") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        cause: BaseException = error
        while cause.__context__ is not None:
            cause = cause.__context__
        raise Interrupted(f"the connection broke ({addresses.hide(str(cause), whole)})") from None


def _receive(answer, args, start):
    """Write the body from byte `start` on; raise Interrupted if it is slower than LEAST_RATE."""
    total = start + int(answer.headers.get("Content-Length", 0))
    with open(args.checkpoint, "ab" if start else "wb") as stream, progress.bar(total, "download", "B") as bar:
        bar.update(start)
        since, count = time.monotonic(), 0
        while block := answer.raw.read1(BLOCK):
            stream.write(block)
            bar.update(len(block))
            count, seconds = count + len(block), time.monotonic() - since
            if seconds > args.patience:
                if count < LEAST_RATE * seconds:
                    raise Interrupted(f"too slow: {count} bytes in {seconds:.1f} s")
                since, count = time.monotonic(), 0


def command() -> Command:
    c = Command(__file__, __doc__)
    c.param("--url", required=True, help="http, https or file; proxies and secrets come from the environment")
    c.param("--sha256", required=True, help="first hex digits of the hash, at least 8")
    c.output("--checkpoint", help="file to write")
    folder = os.environ.get("LEVIT_DOWNLOADS") or ".cache/downloads"
    c.untracked("--downloads", default=folder, help="folder of manually downloaded files ($LEVIT_DOWNLOADS)")
    c.untracked("--attempts", type=int, default=5, help="requests before giving up")
    c.untracked("--delay", type=float, default=1.0, help="seconds before the first retry; doubled each time")
    slow = f"seconds without a byte, or with fewer than {LEAST_RATE} a second, that end a request"
    return c.untracked("--patience", type=float, default=30.0, help=slow)


if __name__ == "__main__":
    command().run(run)
