"""The distance of a quantized network's outputs from the FP32 network's."""

import torch
import torch.nn.functional as F


def divergence(logits: torch.Tensor, target: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return KL(target || logits) of softened logits [N, C], times T^2.

    The factor makes the gradients independent of the temperature T (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).
    """
    student, teacher = (F.log_softmax(x.float() / temperature, dim=1) for x in (logits, target))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
