"""Quantizers on the folded network, by nvidia-modelopt: where they are, how their ranges are found and kept.

Every convolution and linear layer has a quantizer on its input (per tensor) and on its weight (per output channel),
both attention products on both inputs, every skip connection on the skipped input. All are symmetric INT8. A quantizer
is named `{module}.{input,weight,a,b,skipped}_quantizer`, and the ONNX side (graph/qdq.py) finds its node by that name.
"""

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.quantization.nn import QuantModule, TensorQuantizer

import progress
from files import UserError
from model.deploy import MatMul, ResidualAdd

SUFFIX = "_quantizer"
PERCENTILE = 99.99  # of magnitudes inside the range, for the method of that name
STRIDE = 16  # of the search over 2,048 histogram bins: modelopt's own loop takes seconds per quantizer at 1
SMALLEST = 1e-6  # range of a tensor that is zero everywhere, so that its scale is still a normal number
METHODS = {
    "max": ("max", {}),
    "entropy": ("histogram", {"method": "entropy", "stride": STRIDE}),
    "percentile": ("histogram", {"method": "percentile", "percentile": PERCENTILE}),
}


class _QuantMatMul(QuantModule):
    def _setup(self):
        self._register_temp_attribute("a_quantizer", TensorQuantizer())
        self._register_temp_attribute("b_quantizer", TensorQuantizer())

    def forward(self, a, b):
        return super().forward(self.a_quantizer(a), self.b_quantizer(b))


class _QuantResidualAdd(QuantModule):
    def _setup(self):
        self._register_temp_attribute("skipped_quantizer", TensorQuantizer())

    def forward(self, skipped, branch):
        return super().forward(self.skipped_quantizer(skipped), branch)


def _register():
    for original, quantized in ((MatMul, _QuantMatMul), (ResidualAdd, _QuantResidualAdd)):
        if original not in mtq.QuantModuleRegistry:
            mtq.register(original_cls=original, quantized_cls=quantized)


def add(model, method="max"):
    """Put quantizers on a folded network, in place, without ranges yet; raise UserError for an unknown method."""
    if method not in METHODS:
        raise UserError(f"calibration.method {method!r} is not known; there are: {', '.join(METHODS)}")
    _register()
    calibrator = METHODS[method][0]
    activation = {"num_bits": 8, "axis": None, "calibrator": calibrator}
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
            *({"quantizer_name": f"*{kind}_quantizer", "cfg": activation} for kind in ("input", "a", "b", "skipped")),
        ],
        "algorithm": None,
    }
    return mtq.quantize(model, config)


def named(model):
    """Return {name: quantizer} of all enabled quantizers."""
    found = ((n, m) for n, m in model.named_modules() if isinstance(m, TensorQuantizer))
    return {name: quantizer for name, quantizer in found if quantizer.is_enabled}


@torch.no_grad()
def calibrate(model, batches, method):
    """Find the range of every quantizer from batches of float32 images [N, 3, H, W]; weights always by max."""
    quantizers = named(model)
    for quantizer in quantizers.values():
        quantizer.disable_quant()
        quantizer.enable_calib()
    for images in batches:
        try:
            model(images)
        except AssertionError as error:  # modelopt's word for NaN
            raise UserError(f"calibration: {error}; check the checkpoint and the images") from None
    for name, quantizer in progress.over(sorted(quantizers.items()), f"ranges by {method}", "quantizer"):
        quantizer.load_calib_amax(**({} if name.endswith("weight_quantizer") else METHODS[method][1]))
        quantizer.disable_calib()
        quantizer.enable_quant()


def ranges(model):
    """Return {name: amax, or list of amax per output channel}; raise UserError naming a range that is no range."""
    found = {}
    for name, quantizer in sorted(named(model).items()):
        amax = quantizer.amax.detach().float().flatten()
        if not torch.isfinite(amax).all():
            raise UserError(f"calibration: {name} saw infinite values; check the checkpoint and the images")
        amax = amax.clamp(min=SMALLEST)
        found[name] = amax.tolist() if name.endswith("weight_quantizer") else amax.item()
    return found


def load_ranges(model, amax):
    """Give every quantizer its calibrated range; raise UserError where quantizers and ranges have different names."""
    quantizers = named(model)
    if quantizers.keys() != amax.keys():
        differ = sorted(quantizers.keys() ^ amax.keys())
        raise UserError(f"calibration is of another network: {len(differ)} quantizers differ ({', '.join(differ[:4])})")
    for name, quantizer in quantizers.items():
        values = torch.tensor(amax[name], dtype=torch.float32)
        weight = model.get_submodule(name.rsplit(".", 1)[0]).weight if values.ndim else None
        quantizer.amax = values.reshape(-1, *[1] * (weight.ndim - 1)) if values.ndim else values
        quantizer.enable_quant()


def state(model):
    """Return a quantized network's state dict: the folded weights, and `{quantizer}._amax` for each range."""
    return dict(model.state_dict())


def split_state(tensors):
    """Return (folded weights, {quantizer: amax}) of a quantization-aware checkpoint's tensors.

    Reads the keys that modelopt and pytorch-quantization 2.2.1 share: `{module}.{x}_quantizer._amax`.
    """
    amax = {name[: -len("._amax")]: value for name, value in tensors.items() if name.endswith("_quantizer._amax")}
    weights = {name: value for name, value in tensors.items() if f"{SUFFIX}._" not in name}
    return weights, {name: value.flatten().tolist() if value.ndim else value.item() for name, value in amax.items()}
