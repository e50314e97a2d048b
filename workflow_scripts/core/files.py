"""Files as artifacts: hashes, canonical JSON, and writers that never leave half a file."""

import contextlib
import errno
import hashlib
import json
import os
import sys
from pathlib import Path


class UserError(Exception):
    """A problem the user can solve: its text names the thing, the value and the remedy, in one line."""


def describe(error):
    """Return what an OSError says, with the file's name and, where a disk is full, the remedy."""
    where = error.filename or "the file"
    if error.errno == errno.ENOSPC:
        return f"no space left on the device while writing {where}: free some (.cache/ is safe to delete) and rerun"
    return f"{where}: {error.strerror or error}"


def one_line(main):
    """Run a tool's `main()`; whatever it raises becomes one line on stderr, and the exit status 1."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except BrokenPipeError:  # whoever read the output has enough of it
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


def sha256_file(path):
    """Return the hex SHA-256 of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def canonical(value):
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(value):
    """Return the hex SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def read_json(path):
    """Return the parsed JSON file; raise UserError where it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): delete it and run again") from None


def write_json(path, value):
    """Write a value as indented JSON with sorted keys, atomically."""
    text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n"
    with replacing(path) as partial:
        Path(partial).write_text(text, encoding="utf-8")


def system_text(path):
    """Return the text of a file in which a system tells of itself (/proc, /sys), empty where it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def system_number(path):
    """Return the whole number in such a file, or None."""
    text = system_text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else None


def partial_of(path):
    """Return where a file is written before it gets its name."""
    return f"{path}.partial"


@contextlib.contextmanager
def replacing(path):
    """Yield the `.partial` path to write; on success it replaces `path`, on failure it is removed."""
    partial = partial_of(path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
