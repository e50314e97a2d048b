"""What makes accuracy on a dataset doubtful: images of val that are trained on too, images whose values are clipped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

MODES = ("I", "F")  # starts of Pillow's modes with more than 8 bits, whose values above 255 become white


def repeated(val: Sequence[int], others: Collection[int], digests: Mapping, paths: Sequence[str]) -> dict | None:
    """Return {"images": how many of val are among others, "first": path of one, "as": path of its twin}, or None.

    val, others: positions into `paths`; digests: {position: SHA-256} of those that were hashed, in val all.
    """
    twins = {digests[position]: position for position in sorted(others, reverse=True) if position in digests}
    twice = [position for position in val if digests[position] in twins]
    if not twice:
        return None
    return {"images": len(twice), "first": paths[twice[0]], "as": paths[twins[digests[twice[0]]]]}


def warnings(index: dict) -> list[str]:
    """Return a line for each of the two, {"images": how many, "first": path of one, ...}, that an index records."""
    lines = {
        "repeated": "{images} images of val are among the training images too ({first} is {as}): accuracy looks better "
        "than it is: remove them from either",
        "clipped": "{images} images have more than 8 bits a channel ({first} for one): values above 255 become white, "
        "as in timm: convert them to 8 bits, as the weights were trained",
    }
    return [line.format(**index[key]) for key, line in lines.items() if index.get(key)]
