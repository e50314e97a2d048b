"""The content-keyed store: work that was done once is copied, not repeated.

An entry is a folder named by its key; the key covers the contents of the inputs, the canonical parameters, the code
and the tool versions (cli.py makes it). Entries are written beside and renamed, and verified by hash when read.
The folder comes from LEVIT_STORE (set by the Snakefile from config.yaml) and may be shared; deleting it is safe.

    python workflow_scripts/store.py list | prune --keep-gb 20
"""

import argparse
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from files import UserError, read_json, replacing, sha256_file, write_json

MANIFEST = "entry.json"


class Store:
    """Artifacts by key under one folder."""

    def __init__(self, root):
        self.root = Path(root)

    @classmethod
    def default(cls):
        """Return the store that the environment names, or None where LEVIT_STORE is empty or unset."""
        root = os.environ.get("LEVIT_STORE")
        return cls(root) if root else None

    def entry(self, key):
        return self.root / key[:2] / key

    def fetch(self, key, outputs):
        """Copy an entry's files to `outputs` ({name: path}) and return True; return False where there is none.

        A damaged entry (missing file, other hash) is removed and counts as absent.
        """
        folder = self.entry(key)
        if not (folder / MANIFEST).is_file():
            return False
        try:
            recorded = read_json(folder / MANIFEST)["outputs"]
            for name, path in outputs.items():
                with replacing(path) as partial:
                    shutil.copyfile(folder / name, partial)
                    if sha256_file(partial) != recorded[name]:
                        raise ValueError(name)
        except (OSError, ValueError, KeyError, UserError):
            shutil.rmtree(folder, ignore_errors=True)
            return False
        with contextlib.suppress(OSError):
            os.utime(folder)
        return True

    def put(self, key, outputs, parts):
        """Keep the files `outputs` ({name: path}) under `key`; `parts` records what the key was made of."""
        folder = self.entry(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".new-", dir=str(folder.parent)))
        try:
            for name, path in outputs.items():
                _link(path, beside / name)
            hashes = {name: sha256_file(beside / name) for name in outputs}
            write_json(beside / MANIFEST, {"outputs": hashes, "parts": parts})
            with contextlib.suppress(OSError):  # another job may have stored the same key first
                os.rename(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def entries(self):
        """Return (last use, bytes, folder) of each entry, the least recently used first."""
        folders = [m.parent for m in self.root.glob(f"??/*/{MANIFEST}") if not m.parent.name.startswith(".")]
        return sorted((f.stat().st_mtime, sum(p.stat().st_size for p in f.iterdir()), f) for f in folders)

    def prune(self, keep_bytes):
        """Remove the least recently used entries until at most `keep_bytes` are left; return how many went."""
        entries = self.entries()
        total, removed = sum(size for _, size, _ in entries), 0
        for _, size, folder in entries:
            if total <= keep_bytes:
                break
            shutil.rmtree(folder)
            total, removed = total - size, removed + 1
        return removed


def _link(path, entry):
    """Give a finished file, which nobody writes again, a second name; copy it where the store is another disk."""
    try:
        os.link(path, entry)
    except OSError:
        shutil.copyfile(path, entry)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["list", "prune"])
    parser.add_argument("--store", default=os.environ.get("LEVIT_STORE", ".cache/store"))
    parser.add_argument("--keep-gb", type=float, default=20.0)
    args = parser.parse_args()
    store = Store(args.store)
    if args.action == "prune":
        print(f"removed {store.prune(args.keep_gb * 1e9)} entries")
        return
    for _, size, folder in store.entries():
        print(f"{size:>12,} {read_json(folder / MANIFEST)['parts'].get('command', '?'):<20} {folder.name}")


if __name__ == "__main__":
    main()
