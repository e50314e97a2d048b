"""Files as artifacts: hashes, canonical JSON, and writers that never leave half a file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable

ROWS, DONE = ".rows", ".done"  # suffixes of the files of an unfinished decoding (data/row_file.py)
STAGED = "copied-"  # prefix of a folder in .cache/ with files to check before they get their names


class UserError(Exception):
    """A problem that the user can solve: one line that names the thing, the value and the remedy."""


def describe(error: OSError) -> str:
    """Return the message of an OSError with the file's name and, for a full disk, the remedy."""
    where = error.filename or "the file"
    if error.errno == errno.ENOSPC:
        return f"no space left on the device while writing {where}: free some (.cache/ is safe to delete) and rerun"
    return f"{where}: {error.strerror or error}"


def one_line(main: Callable[[], None]) -> None:
    """Call a tool's `main()`; print any exception as one line on stderr, and exit with status 1."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except BrokenPipeError:  # the reader of stdout has closed it
        os._exit(1)
    except UserError as error:
        problem = str(error)
    except OSError as error:
        problem = describe(error)
    except Exception as error:
        problem = f"{Path(sys.argv[0]).name}: {type(error).__name__}: {str(error).strip() or 'no message'}"
    else:
        return
    sys.exit(f"error: {' '.join(problem.split())}")


def sha256_file(path: str | Path) -> str:
    """Return the hex SHA-256 of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def with_digest(digest: str | None, paths: Iterable[str]) -> str | None:
    """Return the first of some files whose SHA-256 is `digest`, or None."""
    return next((path for path in paths if sha256_file(path) == digest), None)


def canonical(value: Any) -> str:
    """Return the canonical JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value: Any) -> str:
    """Return the hex SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def read_json(path: str | Path) -> Any:
    """Return the parsed JSON file; raise UserError if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): delete it and run again") from None


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON with sorted keys, atomically."""
    text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n"
    with replacing(path) as partial:
        Path(partial).write_text(text, encoding="utf-8")


def system_text(path: str | Path) -> str:
    """Return the text of a file of /proc or /sys, or an empty string if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def system_output(*command: str) -> str:
    """Return what a program prints, or an empty string where it does not start or takes more than 20 s."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def system_number(path: str | Path) -> int | None:
    """Return the integer in a file of /proc or /sys, or None."""
    text = system_text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def partial_of(path: str | Path) -> str:
    """Return the path under which a file is written before it is complete."""
    return f"{path}.partial"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[str]:
    """Yield a partial path to write; on success the file replaces `path`, on failure it is removed."""
    partial = partial_of(path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
