"""Fake quantizers on the folded network, by nvidia-modelopt or NVIDIA's older pytorch-quantization 2.2.1.

Every convolution and linear layer gets a quantizer on its input (per tensor) and on its weight (per output channel),
both attention products on both inputs, and every skip connection on the skipped input. All are symmetric INT8. A
quantizer is named `{module}.{input,weight,a,b,skipped}_quantizer`; graph/qdq.py finds its node by that name.

pytorch-quantization is not run here: its wheels are on NVIDIA's own index, and the package of that name on a public
index is a placeholder.
"""

import logging
import warnings
from collections.abc import Callable
from unittest import mock

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


QUANTIZED: dict[type, tuple[type, dict]] = {  # {class: (quantized class, {quantizer: axis of its ranges})}
    torch.nn.Conv2d: (_QuantConv2d, {"input": None, "weight": 0}),
    torch.nn.Linear: (_QuantLinear, {"input": None, "weight": 0}),
    MatMul: (_QuantMatMul, {"a": None, "b": None}),
    ResidualAdd: (_QuantResidualAdd, {"skipped": None}),
}


def _modelopt():
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # modelopt imports it; it warns of no GPU
    uncompiled = mock.patch.object(torch, "compile", lambda **_: lambda function: function)  # else it imports Inductor
    with warnings.catch_warnings(), uncompiled:
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # modelopt calls it
        from modelopt.torch.quantization.config import QuantizerAttributeConfig
        from modelopt.torch.quantization.nn import TensorQuantizer
    return TensorQuantizer, QuantizerAttributeConfig


def _pytorch_quantization():
    try:
        from pytorch_quantization.nn import TensorQuantizer
        from pytorch_quantization.tensor_quant import QuantDescriptor
    except ImportError as error:
        remedy = "install 2.2.1 from NVIDIA's index, or take out `backend` (modelopt)"
        raise UserError(f"calibration.backend pytorch_quantization is not installed here ({error}): {remedy}") from None
    return TensorQuantizer, QuantDescriptor


BACKENDS: dict[str, Callable] = {"modelopt": _modelopt, "pytorch_quantization": _pytorch_quantization}


def add(model: torch.nn.Module, recipe: dict) -> torch.nn.Module:
    """Put quantizers, without ranges, on a folded network in place, and return it.

    recipe: a calibration recipe, of which `backend` counts. Raises UserError if that library is missing.
    """
    quantizer, described = BACKENDS[recipe.get("backend", "modelopt")]()
    for module in list(model.modules()):
        if type(module) in QUANTIZED:
            module.__class__, axes = QUANTIZED[type(module)]
            for name, axis in axes.items():
                setattr(module, f"{name}_quantizer", quantizer(described(num_bits=8, axis=axis)))
    return model
