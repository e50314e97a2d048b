"""A store in a bucket of S3, by boto3: an entry is one object, so that it appears and goes as a whole.

The object PREFIX/ab/KEY.COMMAND.tar has an entry's files, its manifest first. A listing therefore tells all that `list`
and `prune` need, and nothing in the bucket is ever changed. boto3 is imported for the first request (about 0.3 s). It
finds the credentials; messages name an error by its code alone, since its text may quote addresses and requests.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import re
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core.files import canonical, sha256_file
from core.store import MANIFEST, Damaged, Entries, Entry, Unreachable, copy_verified, parsed

# boto3 is apart from the environment, where Snakemake would import it at each start (smart_open does: 0.3 s)
PACKAGES, SETUP = str(Path(__file__).resolve().parents[2] / ".cache/boto3"), "run make s3"
CONNECT_S, READ_S = 5.0, 20.0  # seconds without an answer after which a request ends; each is tried twice
BLOCK = 1 << 20  # bytes read at once
PART = 8 << 20  # bytes of an object's part; a smaller object is sent whole
PARTS = 9_000  # of 10,000 that S3 allows
STREAMS, CONNECTIONS = 4, 16  # parts of one object under way, and requests of all uploads
UNFINISHED_S = 86_400.0  # seconds after which an upload is taken for one that was killed
LARGEST_MANIFEST = 16 << 20  # bytes
END = bytes(2 * tarfile.BLOCKSIZE)  # of a tar
REASONS = {  # of a code of S3, or a class of botocore
    "NoSuchBucket": "there is no such bucket",
    "RequestTimeTooSkewed": "this machine's clock differs from the server's (RequestTimeTooSkewed)",
    "NoCredentialsError": "no credentials where boto3 looks for them: set AWS_PROFILE, or see docs/store.md",
    "EndpointConnectionError": "no connection",
    "ConnectTimeoutError": f"no connection within {CONNECT_S:.0f} s",
    "ReadTimeoutError": f"no answer within {READ_S:.0f} s",
    "ConnectionClosedError": "the connection broke",
    "ResponseStreamingError": "the connection broke",
    "IncompleteReadError": "the connection broke",
}
REFUSED = "AccessDenied InvalidAccessKeyId InvalidClientTokenId SignatureDoesNotMatch ExpiredToken InvalidToken 403"
REASONS.update((code, f"the credentials are refused ({code})") for code in REFUSED.split())


class Bucket(Entries):
    """Artifacts by key in s3://bucket/prefix; wait: called before each block that is sent, to hold an upload up."""

    def __init__(self, url: str, read_only: bool = False, wait: Callable[[], object] = bool) -> None:
        super().__init__(url.rstrip("/"), read_only)
        self.bucket, _, prefix = self.name.partition("://")[2].partition("/")
        self.prefix, self.wait = f"{prefix}/" if prefix else "", wait

    def entry(self, key: str) -> str:
        """Return the address of an entry, as messages name it."""
        return f"{self.name}/{key[:2]}/{key}"

    def read(self, key: str, outputs: dict[str, str] | None) -> dict | None:
        """Write an entry's files to `outputs` and return its manifest, as Entries says; raise Unreachable."""
        with self._requests() as client:
            listed = self._object(client, key)
            if not listed:
                return None
            try:
                answer = client.get_object(Bucket=self.bucket, Key=listed["Key"])
            except client.exceptions.NoSuchKey:  # another machine has removed it meanwhile
                return None
            except client.exceptions.InvalidObjectState:  # by a rule of the bucket; what is made again replaces it
                raise Damaged("it is archived, which takes hours to read") from None
            with contextlib.closing(answer["Body"]) as body:
                return unpack(body, outputs)

    def put(self, key: str, outputs: dict[str, str], parts: dict) -> None:
        """Store the files `outputs` ({name: path}) under `key` unless it is there; raise Unreachable, OSError.

        An object of another size is replaced: one that is truncated, where this user may not remove it.
        """
        hashes = {name: sha256_file(path) for name, path in outputs.items()}
        stream = Packed({"outputs": hashes, "parts": parts}, outputs, self.wait)
        command = re.sub(r"[^\w-]", "", str(parts.get("command", ""))) or "unknown"
        with self._requests() as client:
            if self._object(client, key).get("Size") != stream.size:
                self._send(client, f"{self._start(key)}{command}.tar", stream)

    def _send(self, client, name, stream):
        from boto3.s3.transfer import TransferConfig

        part = max(PART, stream.size // PARTS)
        config = TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=STREAMS)
        client.upload_fileobj(stream, self.bucket, name, Config=config)

    def remove(self, key: str) -> None:
        """Remove an entry; raise Unreachable."""
        with self._requests() as client:
            for listed in self._objects(client, self._start(key)):
                client.delete_object(Bucket=self.bucket, Key=listed["Key"])

    def abort_uploads(self) -> int:
        """Abort the uploads that killed processes left, and return how many; raise Unreachable."""
        with self._requests() as client:
            pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.prefix)
            uploads = [upload for page in pages for upload in page.get("Uploads", ())]
            abandoned = [each for each in uploads if time.time() - each["Initiated"].timestamp() > UNFINISHED_S]
            for each in abandoned:
                client.abort_multipart_upload(Bucket=self.bucket, Key=each["Key"], UploadId=each["UploadId"])
        return len(abandoned)

    def entries(self) -> list[Entry]:
        """Return the entries, those that were uploaded first first: S3 does not tell when one was read last."""
        pattern = re.compile(re.escape(self.prefix) + r"[0-9a-f]{2}/([0-9a-f]+)\.([\w-]+)\.tar")
        with self._requests() as client:
            listed = [(pattern.fullmatch(each["Key"]), each) for each in self._objects(client, self.prefix)]
        objects = {match[1]: (match[2], each) for match, each in listed if match}
        self._commands = {key: command for key, (command, _) in objects.items()}
        return sorted(Entry(each["LastModified"].timestamp(), each["Size"], key) for key, (_, each) in objects.items())

    def content(self, key: str) -> str:
        """Return the command that wrote an entry of the last listing."""
        return self._commands[key]

    def _start(self, key):
        return f"{self.prefix}{key[:2]}/{key}."

    def _object(self, client, key):
        """Return the name and the size of an entry's object as S3 lists them, {} where there is none."""
        answer = client.list_objects_v2(Bucket=self.bucket, Prefix=self._start(key), MaxKeys=1)
        return next(iter(answer.get("Contents", ())), {})

    def _objects(self, client, prefix):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            yield from page.get("Contents", ())

    @functools.cached_property
    def _client(self) -> Any:
        if not has_boto3():
            raise Unreachable(f"boto3 is missing: {SETUP}")
        import boto3
        from botocore.config import Config

        retries = {"total_max_attempts": 2, "mode": "standard"}
        checksums = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        limits = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "max_pool_connections": CONNECTIONS}
        return boto3.client("s3", config=Config(retries=retries, **limits, **checksums))

    @contextlib.contextmanager
    def _requests(self) -> Iterator[Any]:
        """Yield a client; raise Unreachable for an error of it."""
        try:
            yield self._client
        except Exception as error:
            if type(error).__module__.split(".")[0] not in ("botocore", "boto3", "s3transfer"):
                raise
            raise Unreachable(_reason(error)) from None


def has_boto3() -> bool:
    """Return whether boto3 can be imported, from PACKAGES where the environment lacks it."""
    if PACKAGES not in sys.path:
        sys.path.append(PACKAGES)
    return importlib.util.find_spec("boto3") is not None


def _reason(error):
    """Return what an error of botocore says, by its code or its class."""
    cause = error.__context__ if type(error).__module__.startswith("boto3") else error
    response = getattr(cause, "response", None) or {}
    code = re.sub(r"\W", "", str(response.get("Error", {}).get("Code") or type(cause).__name__))[:60]
    return REASONS.get(code, code)


class Packed:
    """An entry as the bytes of a tar: its manifest, then its files; they are read as they are asked for."""

    def __init__(self, entry: dict, outputs: dict[str, str], wait: Callable[[], object] = bool) -> None:
        self.entry, self.outputs, self.wait = canonical(entry).encode(), outputs, wait
        sizes = [len(self.entry), *map(os.path.getsize, outputs.values())]
        self.size = sum(size + -size % tarfile.BLOCKSIZE + tarfile.BLOCKSIZE for size in sizes) + len(END)
        self._blocks, self._left = self._all(), bytearray()

    def read(self, count: int = -1) -> bytes:
        """Return the next `count` bytes, fewer only at the end."""
        while count < 0 or len(self._left) < count:
            block = next(self._blocks, None)
            if block is None:
                break
            self._left += block
        count = len(self._left) if count < 0 else count
        block = bytes(self._left[:count])
        del self._left[:count]
        return block

    def _all(self):
        yield from _member(MANIFEST, len(self.entry), io.BytesIO(self.entry))
        for name, path in self.outputs.items():
            with open(path, "rb") as stream:
                for block in _member(name, os.fstat(stream.fileno()).st_size, stream):
                    self.wait()
                    yield block
        yield END


def _member(name, size, stream):
    info = tarfile.TarInfo(name)
    info.size = size
    yield info.tobuf(tarfile.GNU_FORMAT)
    yield from iter(lambda: stream.read(BLOCK), b"")
    yield bytes(-size % tarfile.BLOCKSIZE)


def unpack(stream: Any, outputs: dict[str, str] | None) -> dict:
    """Write the files of an entry's tar to `outputs`, or to nowhere for None; return its manifest; raise Damaged.

    stream: has read(n). No name in the tar decides a path.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK) as tar:
            first = tar.next()
            if first is None or first.name != MANIFEST or first.size > LARGEST_MANIFEST:
                raise Damaged(f"{MANIFEST} is missing")
            entry = parsed(tar.extractfile(first).read())  # type: ignore[union-attr]
            wanted = dict.fromkeys(entry["outputs"], os.devnull) if outputs is None else dict(outputs)
            for member in tar:
                if member.isfile() and member.name in wanted:
                    digest = entry["outputs"].get(member.name)
                    copy_verified(tar.extractfile(member), wanted.pop(member.name), digest, member.name)  # type: ignore[arg-type]
    except (tarfile.TarError, EOFError):
        raise Damaged("it is truncated, or no tar") from None
    if wanted:
        raise Damaged(f"{next(iter(wanted))} is missing")
    return entry
