"""An ImageFolder tree that a builtin dataset writes: beside the old one, which it replaces when it is whole."""

import contextlib
import itertools
import os
import shutil
from pathlib import Path

from data.layouts import HALVES


@contextlib.contextmanager
def replacing(root, classes):
    """Yield a new folder with {train,val}/{class}/ to fill; on success it replaces `root`."""
    partial, old = Path(f"{root}.partial"), Path(f"{root}.old")
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)
    for half, name in itertools.product(HALVES, classes):
        (partial / half / name).mkdir(parents=True)
    yield partial
    if os.path.exists(root):
        os.rename(root, old)
    os.rename(partial, root)
    shutil.rmtree(old, ignore_errors=True)
