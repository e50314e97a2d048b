"""Choose images by a hash of their name.

The choice is balanced over classes, the same on every machine, and changes little when a folder gains or loses images.
"""

import itertools
from collections.abc import Iterable, Sequence
from hashlib import sha256


def balanced(candidates: Iterable[int], labels: Sequence[int], keys: Sequence[str], count: int, salt: str) -> list[int]:
    """Return `count` of the candidates, ordered so that every prefix is balanced over the classes.

    candidates: positions into `labels` and `keys` (unique texts); salt: part of the hash.
    Classes take turns; within a class, the hashes give the order.
    """
    turns = {}
    for position in sorted(
        candidates, key=lambda p: sha256(f"{salt}/{keys[p]}".encode("utf-8", "surrogateescape")).digest()
    ):
        turns.setdefault(labels[position], []).append(position)
    columns = [turns[label] for label in sorted(turns)]
    rounds = itertools.zip_longest(*columns)
    return list(itertools.islice((p for turn in rounds for p in turn if p is not None), count))
