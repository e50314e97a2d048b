"""A model of Triton's Python backend: image files in, what the engine takes out.

A file that is no image fails its own request, in one line, and no other request of the batch.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from core import processors
from core.files import UserError, read_json
from data import preprocess
from deployment.model_config import IMAGE

PREPROCESS = "preprocess.json"


class TritonPythonModel:
    """What Triton makes of this file, once for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the geometry and the normalization. args: Triton's."""
        folder = os.path.join(args["model_repository"], args["model_version"])
        self.preprocessing = read_json(os.path.join(folder, PREPROCESS))
        output = json.loads(args["model_config"])["output"][0]
        self.output, self.dtype = output["name"], triton.triton_string_to_numpy(output["data_type"])
        self.pool = ThreadPoolExecutor(processors.available())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return a response for each request; all images of all requests are decoded in parallel."""
        return [self._response(started) for started in [self._start(request) for request in requests]]

    def _start(self, request):
        files = triton.get_input_tensor_by_name(request, IMAGE).as_numpy().ravel()
        return [self.pool.submit(self._pixels, data, f"{number}") for number, data in enumerate(files)]

    def _pixels(self, data, name):
        return preprocess.pixels(data, name, self.preprocessing)

    def _response(self, started):
        try:
            pixels = np.stack([image.result() for image in started])
        except UserError as problem:
            return triton.InferenceResponse([], triton.TritonError(str(problem)))
        images = preprocess.for_session(self, pixels, self.preprocessing)
        return triton.InferenceResponse([triton.Tensor(self.output, images)])
