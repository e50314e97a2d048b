"""INT8 quantization of the folded network: statistics, ranges, scalings, bias correction, and who quantizes.

A backend puts fake quantizers on a network, in place (`add`): nvidia-modelopt, or NVIDIA's older pytorch-quantization.
Every convolution and linear layer gets a quantizer on its input (per tensor) and on its weight (per output channel),
both attention products on both inputs, every skip connection on the skipped input. All are symmetric INT8. A quantizer
is named `{module}.{input,weight,a,b,skipped}_quantizer`, and the ONNX side (graph/qdq.py) finds its node by that name.
"""


def add(model, backend):
    """Put quantizers on a folded network, in place, without ranges yet, and return it.

    backend: `modelopt` or `pytorch_quantization`. Raises UserError where that is not installed.
    """
    if backend == "pytorch_quantization":
        from quantization import pytorch_quantization as chosen
    else:
        from quantization import modelopt as chosen
    return chosen.add(model)
