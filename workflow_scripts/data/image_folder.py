"""An ImageFolder tree of a builtin dataset, written beside the old one and put in its place when it is complete."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.layouts import HALVES


@contextlib.contextmanager
def replacing(root: str, classes: Iterable[str]) -> Iterator[Path]:
    """Yield a new folder with {train,val}/{class}/ to fill; on success it replaces `root`."""
    partial, old = Path(f"{root}.partial"), Path(f"{root}.old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    for half, name in itertools.product(HALVES, classes):
        (partial / half / name).mkdir(parents=True)
    yield partial
    if os.path.exists(root):
        os.rename(root, old)
    os.rename(partial, root)
    shutil.rmtree(old, ignore_errors=True)
