"""How far a quantized network's outputs are from the FP32 network's."""

import torch.nn.functional as F


def divergence(logits, target, temperature=1.0):
    """Return KL(target || logits) of softened logits [N, C], times T^2.

    The factor keeps gradients alike whatever the temperature T (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).
    """
    student, teacher = (F.log_softmax(x.float() / temperature, dim=1) for x in (logits, target))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
