"""Quantizers of NVIDIA's pytorch-quantization 2.2.1 on the folded network: the second backend, not run here.

nvidia-modelopt has replaced it. Its wheels are on NVIDIA's own index; the package of that name on a public index is a
placeholder. Those who have it installed select it by `backend: pytorch_quantization` in a calibration.
"""

import torch
import torch.nn.functional as F

from core.files import UserError
from model.deploy import MatMul, ResidualAdd


class _QuantConv2d(torch.nn.Conv2d):
    def forward(self, images):
        return self._conv_forward(self.input_quantizer(images), self.weight_quantizer(self.weight), self.bias)


class _QuantLinear(torch.nn.Linear):
    def forward(self, tokens):
        return F.linear(self.input_quantizer(tokens), self.weight_quantizer(self.weight), self.bias)


class _QuantMatMul(MatMul):
    def forward(self, a, b):
        return super().forward(self.a_quantizer(a), self.b_quantizer(b))


class _QuantResidualAdd(ResidualAdd):
    def forward(self, skipped, branch):
        return super().forward(self.skipped_quantizer(skipped), branch)


QUANTIZED: dict[type, tuple[type, dict]] = {  # {class: (quantized class, {quantizer: its axis})}
    torch.nn.Conv2d: (_QuantConv2d, {"input": None, "weight": 0}),
    torch.nn.Linear: (_QuantLinear, {"input": None, "weight": 0}),
    MatMul: (_QuantMatMul, {"a": None, "b": None}),
    ResidualAdd: (_QuantResidualAdd, {"skipped": None}),
}


def add(model: torch.nn.Module) -> torch.nn.Module:
    """Put quantizers without ranges on a folded network, in place; raise UserError if the library is not installed."""
    try:
        from pytorch_quantization.nn import TensorQuantizer
        from pytorch_quantization.tensor_quant import QuantDescriptor
    except ImportError as error:
        raise UserError(
            f"calibration.backend pytorch_quantization is not installed here ({error}): install 2.2.1 from NVIDIA's "
            "index, or take out `backend` (modelopt)"
        ) from None
    for module in list(model.modules()):
        if type(module) in QUANTIZED:
            module.__class__, axes = QUANTIZED[type(module)]
            for name, axis in axes.items():
                setattr(module, f"{name}_quantizer", TensorQuantizer(QuantDescriptor(num_bits=8, axis=axis)))
    return model
