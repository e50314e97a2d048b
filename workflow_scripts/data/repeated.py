"""Images of val whose bytes are among the images for training or choices as well: accuracy on them says little."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def find(val: Sequence[int], others: Collection[int], digests: Mapping[int, str], paths: Sequence[str]) -> dict | None:
    """Return {"images": how many of val, "first": path of one, "as": path of its twin}, or None.

    val, others: positions into `paths`; digests: {position: SHA-256} of those that were hashed, in val all.
    """
    twins = {digests[position]: position for position in sorted(others, reverse=True) if position in digests}
    found = [position for position in val if digests[position] in twins]
    if not found:
        return None
    return {"images": len(found), "first": paths[found[0]], "as": paths[twins[digests[found[0]]]]}


def warning(index: dict) -> str | None:
    """Return a warning where an index has such images, or None."""
    known = index.get("repeated")
    if not known:
        return None
    return (
        f"{known['images']} images of val are among the training images too ({known['first']} is {known['as']}): "
        "accuracy looks better than it is: remove them from either"
    )
