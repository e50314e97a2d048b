"""The change of the logits when one group of nodes computes in the lower precision and all others in FP32.

There is one forward pass for each group and treatment, and it computes only the nodes that the group affects.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from planning import ranges, simulate


def measure(
    network: simulate.Network,
    chunks: Sequence[Callable[[], torch.Tensor]],
    groups: Mapping[str, Sequence[str]],
    treatments: Mapping[str, Callable],
    workers: int,
    bar: Any,
) -> tuple[list[dict], dict[str, dict]]:
    """Return ([ranges of a chunk], {group: {treatment: effect}}).

    chunks: functions that return images [N, 3, H, W]; groups: {name: [node name]}; treatments: {name: treatment};
    bar: a progress bar, which counts passes. An effect is the root mean square change of the logits, relative to their
    own spread over images and classes, or None if it is not finite.
    """

    def of_chunk(chunk):
        tensors = network.tensors(chunk())
        reference, sums = tensors[network.output], {}
        for group, names in groups.items():
            for label, treatment in treatments.items():
                change = network.logits(tensors, dict.fromkeys(names, treatment)) - reference
                sums[group, label] = float(change.double().square().sum())
                bar.update()
        return ranges.of_chunk(tensors.items()), sums, reference.double()

    tensors, sums, references = zip(*simulate.each(of_chunk, chunks, workers))
    logits = torch.cat(references)
    spread = float((logits - logits.mean(dim=0)).square().sum())  # around the mean of each class
    return list(tensors), {
        group: {label: _effect([part[group, label] for part in sums], spread) for label in treatments}
        for group in groups
    }


def _effect(sums, spread):
    total = math.fsum(sums)
    return round(math.sqrt(total / spread), 9) if math.isfinite(total) and spread > 0 else None
