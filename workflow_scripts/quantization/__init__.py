"""INT8 quantization of the folded network: histograms, ranges, scaling, bias correction, and the backends.

A backend puts fake quantizers on a network in place (`add`): nvidia-modelopt, or NVIDIA's older pytorch-quantization.
Every convolution and linear layer gets a quantizer on its input (per tensor) and on its weight (per output channel),
both attention products on both inputs, and every skip connection on the skipped input. All are symmetric INT8. A
quantizer is named `{module}.{input,weight,a,b,skipped}_quantizer`; graph/qdq.py finds its node by that name.
"""

import torch


def add(model: torch.nn.Module, backend: str) -> torch.nn.Module:
    """Put a backend's quantizers, without ranges, on a folded network in place; raise UserError if it is missing."""
    if backend == "pytorch_quantization":
        from quantization import pytorch_quantization

        return pytorch_quantization.add(model)
    from quantization import modelopt

    return modelopt.add(model)
