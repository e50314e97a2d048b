"""A GPU in host memory, for tests of what surrounds it: CUDA as cuda-python calls it, and a TensorRT engine.

It keeps CUDA's rules that matter here: work goes into streams in order, a captured query runs when its graph is
launched, an event that was not recorded has no time, a buffer that is too small is an error.
"""

import ctypes
import enum
import time
import types

import numpy as np

SIZE, CLASSES = 4, 10


class Status(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNotReady = 600
    cudaErrorStreamCaptureInvalidated = 901


class Cuda:
    """The functions of cuda.bindings.runtime that runtimes/_cuda.py calls."""

    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, memory=1 << 30, graphs=True):
        self.memory, self.graphs = memory, graphs
        self.buffers, self.streams, self.captured, self.calls = {}, 0, None, []

    def __getattribute__(self, name):
        if name.startswith("cuda") and name[4].isupper():
            object.__getattribute__(self, "calls").append(name)
        return object.__getattribute__(self, name)

    def do(self, work):
        """Run work now, or add it to what is captured."""
        if self.captured is None:
            work()
        else:
            self.captured.append(work)

    def cudaMalloc(self, nbytes):
        if nbytes > self.memory:
            return Status.cudaErrorMemoryAllocation, None
        buffer = ctypes.create_string_buffer(nbytes)
        self.buffers[ctypes.addressof(buffer)] = buffer
        return Status.cudaSuccess, ctypes.addressof(buffer)

    def cudaHostAlloc(self, nbytes, flags):
        return self.cudaMalloc(nbytes)

    def cudaFree(self, address):
        return (Status.cudaSuccess if self.buffers.pop(address, None) else Status.cudaErrorInsufficientDriver,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, target, source, nbytes, kind, stream):
        assert nbytes <= len(self.buffers[target]) and nbytes <= len(self.buffers[source])
        self.do(lambda: ctypes.memmove(target, source, nbytes))
        return (Status.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags):
        self.streams += 1
        return Status.cudaSuccess, self.streams

    def cudaStreamSynchronize(self, stream):
        return (Status.cudaSuccess,)

    def cudaStreamWaitEvent(self, stream, event, flags):
        return (Status.cudaSuccess if event["at"] is not None else Status.cudaErrorNotReady,)

    def cudaEventCreateWithFlags(self, flags):
        return Status.cudaSuccess, {"at": None, "blocking": flags}

    def cudaEventRecord(self, event, stream):
        event["at"] = time.perf_counter()
        return (Status.cudaSuccess,)

    def cudaEventSynchronize(self, event):
        return (Status.cudaSuccess if event["at"] is not None else Status.cudaErrorNotReady,)

    def cudaEventElapsedTime(self, start, end):
        return Status.cudaSuccess, 1e3 * (end["at"] - start["at"])

    def cudaStreamBeginCapture(self, stream, mode):
        self.captured = []
        return (Status.cudaSuccess,)

    def cudaStreamEndCapture(self, stream):
        found, self.captured = self.captured, None
        return (Status.cudaSuccess, found) if self.graphs else (Status.cudaErrorStreamCaptureInvalidated, None)

    def cudaGraphInstantiateWithFlags(self, graph, flags):
        return Status.cudaSuccess, list(graph)

    def cudaGraphLaunch(self, graph, stream):
        for work in graph:
            work()
        return (Status.cudaSuccess,)

    def cudaGetLastError(self):
        return (Status.cudaSuccess,)

    def destroy(self, thing):
        return (Status.cudaSuccess,)

    cudaStreamDestroy = cudaEventDestroy = cudaGraphDestroy = cudaGraphExecDestroy = destroy


def logits(images):
    """Return what the engine computes of images [N, 3, 4, 4]."""
    return np.stack([images.mean(axis=(1, 2, 3)) * (c + 1) for c in range(CLASSES)], axis=1)


class Engine:
    """An engine with optimization profiles [(least, best, most)], by names and by numbers (8.5 has both)."""

    def __init__(self, cuda, profiles):
        self.cuda, self.profiles = cuda, profiles
        self.num_optimization_profiles, self.num_io_tensors = len(profiles), 2
        self.num_bindings = 2 * len(profiles)
        self.shapes = {"input_0": (-1, 3, SIZE, SIZE), "output_0": (-1, CLASSES)}
        self.names = list(self.shapes)

    def create_execution_context(self):
        return Context(self)

    # by name

    def get_tensor_name(self, number):
        return self.names[number]

    def get_tensor_mode(self, name):
        return "in" if name == "input_0" else "out"

    def get_tensor_dtype(self, name):
        return "float32"

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def get_tensor_profile_shape(self, name, profile):
        return [(batch,) + self.shapes[name][1:] for batch in self.profiles[profile]]

    # by number

    def get_binding_name(self, number):
        return self.names[number % 2]

    def binding_is_input(self, number):
        return number % 2 == 0

    def get_binding_dtype(self, number):
        return "float32"

    def get_binding_shape(self, number):
        return self.shapes[self.names[number % 2]]

    def get_profile_shape(self, profile, number):
        assert number // 2 == profile, "TensorRT warns of a binding of another profile"
        return self.get_tensor_profile_shape(self.names[number % 2], profile)


class Context:
    def __init__(self, engine):
        self.engine, self.profile, self.batch, self.addresses = engine, 0, None, {}

    def set_optimization_profile_async(self, number, stream):
        self.profile = number
        return True

    def set_input_shape(self, name, shape):
        least, _, most = self.engine.profiles[self.profile]
        assert least <= shape[0] <= most, f"batch {shape[0]} in a profile of {least} to {most}"
        self.batch = shape[0]
        return True

    def set_binding_shape(self, number, shape):
        assert number == 2 * self.profile
        return self.set_input_shape("input_0", shape)

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        return self._execute(dict(self.addresses))

    def execute_async_v2(self, bindings, stream_handle):
        places = bindings[2 * self.profile : 2 * self.profile + 2]
        return self._execute(dict(zip(self.engine.names, places)))

    def _execute(self, addresses):
        batch = self.batch

        def work():
            given = self._array(addresses["input_0"], (batch, 3, SIZE, SIZE))
            self._array(addresses["output_0"], (batch, CLASSES))[:] = logits(given)

        self.engine.cuda.do(work)
        return True

    def _array(self, address, shape):
        buffer = self.engine.cuda.buffers[address]
        return np.frombuffer(buffer, dtype=np.float32)[: int(np.prod(shape))].reshape(shape)


def library(cuda, newer=True):
    """Return what a session needs of the tensorrt module; newer: 8.5 and later."""
    older = {"execute_async_v2": None}
    context = type("IExecutionContext", (), {**older, **({"execute_async_v3": None} if newer else {})})
    ignore = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0, "WARNING": 2, "INFO": 3, "VERBOSE": 4})
    return types.SimpleNamespace(
        IExecutionContext=context,
        ILogger=ignore,
        TensorIOMode=types.SimpleNamespace(INPUT="in"),
        float32="float32",
        __name__="tensorrt",
    )
