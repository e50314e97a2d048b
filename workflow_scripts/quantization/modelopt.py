"""Quantizers of nvidia-modelopt on the folded network."""

import contextlib
import io
import logging
import warnings
from unittest import mock

import torch

from model.deploy import MatMul, ResidualAdd

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # modelopt imports it, and it warns of no GPU
uncompiled = mock.patch.object(torch, "compile", lambda **_: lambda function: function)  # else it imports Inductor
with warnings.catch_warnings(), uncompiled:
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)  # modelopt calls it
    import modelopt.torch.quantization as mtq
    from modelopt.torch.quantization.nn import QuantModule, TensorQuantizer

ACTIVATIONS = ("input", "a", "b", "skipped")


class _QuantMatMul(QuantModule):
    def _setup(self):
        for name in ("a_quantizer", "b_quantizer"):
            self._register_temp_attribute(name, TensorQuantizer())

    def forward(self, a, b):
        return super().forward(self.a_quantizer(a), self.b_quantizer(b))


class _QuantResidualAdd(QuantModule):
    def _setup(self):
        self._register_temp_attribute("skipped_quantizer", TensorQuantizer())

    def forward(self, skipped, branch):
        return super().forward(self.skipped_quantizer(skipped), branch)


def add(model: torch.nn.Module) -> torch.nn.Module:
    """Put quantizers without ranges on a folded network, in place, and return it."""
    for original, quantized in ((MatMul, _QuantMatMul), (ResidualAdd, _QuantResidualAdd)):
        if original not in mtq.QuantModuleRegistry:
            mtq.register(original_cls=original, quantized_cls=quantized)
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
            *({"quantizer_name": f"*{kind}_quantizer", "cfg": {"num_bits": 8, "axis": None}} for kind in ACTIVATIONS),
        ],
        "algorithm": None,
    }
    with contextlib.redirect_stdout(io.StringIO()):  # modelopt prints the number of quantizers
        return mtq.quantize(model, config)
