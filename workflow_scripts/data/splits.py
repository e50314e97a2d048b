"""Choose images by a hash of their name.

The choice is balanced over classes, the same on every machine, and changes little when a folder gains or loses images.
"""

import hashlib
import itertools


def balanced(candidates, labels, keys, count, salt):
    """Return `count` of the candidates in an order of which every beginning is balanced over the classes.

    candidates: positions into `labels` and `keys` (one unique text each); salt: anything, part of the hash.
    Classes take turns; within a class the order is that of the hashes.
    """
    turns = {}
    for position in sorted(candidates, key=lambda p: _hash(salt, keys[p])):
        turns.setdefault(labels[position], []).append(position)
    columns = [turns[label] for label in sorted(turns)]
    rounds = itertools.zip_longest(*columns)
    return list(itertools.islice((p for turn in rounds for p in turn if p is not None), count))


def _hash(salt, key):
    return hashlib.sha256(f"{salt}/{key}".encode("utf-8", "surrogateescape")).digest()
