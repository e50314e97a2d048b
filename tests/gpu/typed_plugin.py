"""Where TensorRT builds no engine with the plugin in INT8, try what else its interface has for the type of a layer.

LEVIT_PLUGIN=liblevit_attention.so python tests/gpu/typed_plugin.py OUT.json ENGINE ONNX RECIPE
"""

import json
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))

import runtimes  # noqa: E402
from runtimes import _tensorrt  # noqa: E402

parse = _tensorrt.parse


def typed(change):
    def parsed(trt, builder, path):
        network, parser = parse(trt, builder, path)
        for layer in network:
            if layer.type == trt.LayerType.PLUGIN_V2:
                change(trt, layer)
        return network, parser

    return parsed


def set_both(trt, layer):
    layer.set_output_type(0, trt.int8)
    layer.precision = trt.int8


CHANGES = {"output": lambda trt, layer: layer.set_output_type(0, trt.int8), "output and precision": set_both}


def main(out, engine, onnx, recipe):
    found = {"needed": not Path(engine).exists()}
    for name, change in CHANGES.items() if found["needed"] else ():
        _tensorrt.parse = typed(change)
        try:
            found[name] = runtimes.load("tensorrt").build(onnx, json.loads(recipe), None, f"{engine}.typed")
            break
        except Exception:  # noqa: BLE001
            found[name] = traceback.format_exc().splitlines()[-3:]
    Path(out).write_text(json.dumps(found, indent=1, default=str))


if __name__ == "__main__":
    main(*sys.argv[1:])
