"""Model repositories of other runtimes, and models of Triton's Python backend in this process, by a stand-in."""

import collections
import importlib.util
import json
import sys
import types

import numpy as np

from deployment import repository

NAME = "M.fp32.here"
NUMPY = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}
Tensor = collections.namedtuple("Tensor", "name array")
Tensor.as_numpy = lambda self: self.array


def made(files, runtime, graph=None, engine=None, **recipe):
    """Return the files of a repository of a bundle that is changed to be of another runtime."""
    result = json.loads(files["result.json"])
    result["target_identity"]["runtime"] = runtime
    result["provenance"]["recipe"]["building"].update(recipe)
    described = {**json.loads(files["engine.json"]), **(engine or {})}
    changed = {"result.json": json.dumps(result).encode(), "engine.json": json.dumps(described).encode()}
    return repository.files(repository.Bundle(NAME, {**files, **changed}, graph))


def write(files, folder):
    """Write a repository's files; return the folder of its models."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder / "models"


class TritonError(str):
    def message(self):
        return str(self)


class InferenceResponse:
    def __init__(self, tensors, failure=None):
        self.tensors, self.failure = tensors, failure

    def has_error(self):
        return self.failure is not None

    def error(self):
        return self.failure


def stand_in(answers=None, warnings=None):
    """Return the module triton_python_backend_utils. answers: {model: function of its input} that other models give."""

    class InferenceRequest:
        def __init__(self, model_name, requested_output_names, inputs, preferred_memory):
            self.model, self.output, self.images = model_name, requested_output_names[0], inputs[0].array

        def exec(self):
            try:
                return InferenceResponse([Tensor(self.output, answers[self.model](self.images))])
            except ValueError as error:
                return InferenceResponse([], TritonError(error))

    module = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.TritonError, module.InferenceResponse = Tensor, TritonError, InferenceResponse
    module.InferenceRequest, module.PreferredMemory = InferenceRequest, lambda kind, number: (kind, number)
    module.TRITONSERVER_MEMORY_CPU = 0
    module.triton_string_to_numpy = NUMPY.get
    module.Logger = types.SimpleNamespace(log_warn=(warnings if warnings is not None else []).append)
    module.get_input_tensor_by_name = module.get_output_tensor_by_name = lambda holder, name: next(
        tensor for tensor in (holder if isinstance(holder, list) else holder.tensors) if tensor.name == name
    )
    return module


def load(folder, output, utils, monkeypatch):
    """Return the model of a folder in a repository, initialized. output: (name, type) in its configuration."""
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    monkeypatch.syspath_prepend(str(folder / "1"))
    for name in [name for name in sys.modules if name.split(".")[0] == "levit"]:
        monkeypatch.delitem(sys.modules, name)
    spec = importlib.util.spec_from_file_location(f"model_of_{folder.name.replace('.', '_')}", folder / "1/model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = {"output": [dict(zip(("name", "data_type"), output))]}
    model = module.TritonPythonModel()
    model.initialize({"model_repository": str(folder), "model_version": "1", "model_config": json.dumps(config)})
    return model
