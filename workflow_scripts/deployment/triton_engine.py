"""A model of Triton's Python backend: pixels in, the logits of a bundle's engine out.

The engine is run by the bundle's own runtime, or, where PLAN is beside this file, by Triton's TensorRT backend: this
model then splits and pads queries to the batch sizes of the engine, because that backend does not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from core.files import UserError, read_json
from deployment.classifier import Classifier
from deployment.model_config import LOGITS, PIXELS
from runtimes import _cpu

PLAN = "plan.json"  # the model that runs the engine, and engine.json of the bundle


class PlanSession(_cpu.CpuSession):
    """An engine of fixed batch sizes that another model of this server runs."""

    def __init__(self, described: dict):
        """described: {"model", "input", "output", "dtype", "shape", "batches"}."""
        self.name, self.batches, self._sizes = described["model"], described["batches"], described["batches"]
        self._input, self._output = described["input"], described["output"]
        self.inputs, self.outputs = {self._input: described["shape"]}, {self._output: [-1, -1]}
        self.dtype = np.dtype(described["dtype"]).type

    def _fitting(self, count):
        return min((size for size in self._sizes if size >= count), default=max(self._sizes))

    def query(self, images: np.ndarray) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:  # noqa: D102
        memory = triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU, 0)
        request = triton.InferenceRequest(
            model_name=self.name,
            requested_output_names=[self._output],
            inputs=[triton.Tensor(self._input, images)],
            preferred_memory=memory,
        )
        answers = []
        return lambda: answers.append(request.exec()), lambda: self._logits(answers[-1])

    def _logits(self, response):
        if response.has_error():
            raise UserError(response.error().message())
        return triton.get_output_tensor_by_name(response, self._output).as_numpy()


class TritonPythonModel:
    """What Triton makes of this file, once for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the engine; an engine of another machine ends the server with one line. args: Triton's."""
        folder = os.path.join(args["model_repository"], args["model_version"])
        plan = os.path.join(folder, PLAN)
        self.model = Classifier(folder, session=PlanSession(read_json(plan)) if os.path.exists(plan) else None)
        for warning in self.model.warnings:
            triton.Logger.log_warn(warning)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return a response for each request, whose images are one query together."""
        pixels = [triton.get_input_tensor_by_name(request, PIXELS).as_numpy() for request in requests]
        try:
            logits = self.model.logits(np.concatenate(pixels))
        except UserError as problem:
            return [triton.InferenceResponse([], triton.TritonError(str(problem))) for _ in requests]
        parts = np.split(logits, np.cumsum([len(images) for images in pixels])[:-1])
        return [triton.InferenceResponse([triton.Tensor(LOGITS, part)]) for part in parts]
