"""How much the logits change when a group of nodes is computed in the lower precision and all others in FP32.

The number of forward passes is that of the groups; a pass computes only what lies behind its group.
"""

import math

import torch

from planning import ranges, simulate


def measure(network, chunks, groups, treatments, workers, bar):
    """Return ([ranges of a chunk], {group: {treatment: effect}}) over chunks: functions that give images [N, 3, H, W].

    groups: {name: [node name]}; treatments: {name: treatment}. An effect is the root mean square change of the logits,
    relative to their own spread over images and classes; None where it is not finite.
    """

    def of_chunk(chunk):
        known = network.tensors(chunk())
        reference, sums = known[network.output], {}
        for group, names in groups.items():
            for label, treatment in treatments.items():
                change = network.logits(known, dict.fromkeys(names, treatment)) - reference
                sums[group, label] = float(change.double().square().sum())
                bar.update()
        return ranges.of_chunk(known), sums, reference.double()

    parts = simulate.each(of_chunk, chunks, workers)
    spread = _spread([reference for _, _, reference in parts])
    effects = {
        group: {t: _effect([sums[group, t] for _, sums, _ in parts], spread) for t in treatments} for group in groups
    }
    return [found for found, _, _ in parts], effects


def _spread(references):
    """Return the sum of squares of the logits around each class's mean."""
    logits = torch.cat(references)
    return float((logits - logits.mean(dim=0)).square().sum())


def _effect(sums, spread):
    total = math.fsum(sums)
    return round(math.sqrt(total / spread), 9) if math.isfinite(total) and spread > 0 else None
