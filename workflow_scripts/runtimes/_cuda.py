"""CUDA through NVIDIA's own Python bindings: memory, streams, events, graphs and the device's properties.

cuda-bindings (Python 3.9 and later, from CUDA 11.8 on) has the module `cuda.bindings.runtime`, cuda-python 11.8.2 (the
last for Python 3.8) `cuda.cudart`; their functions are the same. Later versions of cuda-python only depend on
cuda-bindings. Every error becomes a UserError that has CUDA's name of it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from core.files import UserError

MODULES = ("cuda.bindings.runtime", "cuda.cudart")
REMEDY = "install cuda-bindings (Python 3.9 and later) or cuda-python 11.8.2 (Python 3.8), as envs/ pins them"
MIB = 1 << 20
LOWER = "lower the target's batches or workspace_mb, or end what else uses the GPU"


@functools.lru_cache(maxsize=None)
def library() -> Any:
    """Return the bindings' module; raise UserError where none is installed."""
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise UserError(f"no CUDA bindings for Python are installed here: {REMEDY}")


class CudaError(UserError):
    """A CUDA call that failed."""


def call(function: str, *arguments: Any) -> Any:
    """Return a CUDA function's results without its status (None, a value, or a tuple); raise CudaError."""
    try:
        status, *values = getattr(library(), function)(*arguments)
    except RuntimeError as error:  # no driver: the bindings find no libcuda
        raise CudaError(f"{function} failed: {error}") from None
    if int(status) != 0:
        _quietly("cudaGetLastError")  # a later check of CUDA's last error is not to find this one
        raise CudaError(f"{function} failed: {getattr(status, 'name', status)}")
    return values[0] if len(values) == 1 else tuple(values) or None


def _allocate(function, what, nbytes, *arguments):
    try:
        return int(call(function, nbytes, *arguments))
    except CudaError as error:
        if "MemoryAllocation" not in str(error):
            raise
        raise CudaError(f"{what}: {nbytes / MIB:.1f} MiB are not available ({error}): {LOWER}") from None


class DeviceBuffer:
    """Memory of the GPU: `address`, `nbytes`."""

    def __init__(self, nbytes: int):
        self.nbytes = max(int(nbytes), 1)
        self.address = _allocate("cudaMalloc", "out of GPU memory", self.nbytes)

    def __del__(self):
        _quietly("cudaFree", self.__dict__.pop("address", None))


class PinnedArray:
    """Page-locked host memory: `array` is a numpy array over it, `address` where it starts."""

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        count = int(np.prod(shape, dtype=np.int64))
        self.nbytes = max(count * np.dtype(dtype).itemsize, 1)
        self.address = _allocate("cudaHostAlloc", "out of pinned host memory", self.nbytes, 0)
        memory = (ctypes.c_byte * self.nbytes).from_address(self.address)
        self.array = np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)

    def __del__(self):
        _quietly("cudaFreeHost", self.__dict__.pop("address", None))


class Event:
    """A point in a stream's time. blocking: the CPU sleeps while it waits for it, else it spins."""

    def __init__(self, blocking: bool = False):
        self.handle = call("cudaEventCreateWithFlags", 1 if blocking else 0)

    def record(self, stream: Stream) -> None:
        """Let the event happen when the stream's work until now is done."""
        call("cudaEventRecord", self.handle, stream.handle)

    def synchronize(self) -> None:
        """Wait for the event."""
        call("cudaEventSynchronize", self.handle)

    def elapsed_time(self, later: Event) -> float:
        """Return the milliseconds from this event to another; both must have happened."""
        return call("cudaEventElapsedTime", self.handle, later.handle)

    def __del__(self):
        _quietly("cudaEventDestroy", self.__dict__.pop("handle", None))


class Stream:
    """A queue of work on the GPU; copies are of whole buffers. Methods that torch's has are named as there."""

    def __init__(self) -> None:
        self.handle = call("cudaStreamCreateWithFlags", 1)  # non-blocking: does not wait for the default stream

    def synchronize(self) -> None:
        """Wait for all work of the stream."""
        call("cudaStreamSynchronize", self.handle)

    def wait_event(self, event: Event) -> None:
        """Let later work of the stream wait for an event."""
        call("cudaStreamWaitEvent", self.handle, event.handle, 0)

    def to_device(self, target: DeviceBuffer, source: PinnedArray) -> None:
        """Enqueue a copy from the host."""
        self._copy(target, source, "cudaMemcpyHostToDevice")

    def to_host(self, target: PinnedArray, source: DeviceBuffer) -> None:
        """Enqueue a copy to the host."""
        self._copy(target, source, "cudaMemcpyDeviceToHost")

    def _copy(self, target, source, kind):
        kind = getattr(library().cudaMemcpyKind, kind)
        call("cudaMemcpyAsync", target.address, source.address, source.nbytes, kind, self.handle)

    def capture(self, work: Callable[[], Any]) -> Graph:
        """Return a Graph of the work that `work()` enqueues; raise CudaError where it cannot be captured."""
        relaxed = library().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", self.handle, relaxed)
        try:
            work()
        except BaseException:
            _quietly("cudaStreamEndCapture", self.handle)
            _quietly("cudaGetLastError")
            raise
        return Graph(call("cudaStreamEndCapture", self.handle))

    def __del__(self):
        _quietly("cudaStreamDestroy", self.__dict__.pop("handle", None))


class Graph:
    """A CUDA graph: captured work that is launched as one."""

    def __init__(self, captured: Any):
        try:
            self.handle = call("cudaGraphInstantiateWithFlags", captured, 0)
        finally:
            _quietly("cudaGraphDestroy", captured)

    def launch(self, stream: Stream) -> None:
        """Enqueue the graph."""
        call("cudaGraphLaunch", self.handle, stream.handle)

    def __del__(self):
        _quietly("cudaGraphExecDestroy", self.__dict__.pop("handle", None))


def device() -> dict:
    """Return {"name", "compute_capability", "memory_bytes", "multiprocessors"} of the current GPU; raise UserError."""
    number = call("cudaGetDevice")
    properties = call("cudaGetDeviceProperties", number)
    name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
    return {
        "name": name.rstrip("\0"),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": int(properties.totalGlobalMem),
        "multiprocessors": int(properties.multiProcessorCount),
    }


def versions() -> dict[str, str]:
    """Return {"runtime", "driver"}: CUDA's versions as text."""
    numbers = {"runtime": call("cudaRuntimeGetVersion"), "driver": call("cudaDriverGetVersion")}
    return {name: f"{number // 1000}.{number % 1000 // 10}" for name, number in numbers.items()}


def _quietly(function, *arguments):
    """Call a function and ignore its status: for releases, and while another error is raised."""
    if arguments and arguments[0] is None:
        return
    try:
        getattr(library(), function)(*arguments)
    except Exception:  # noqa: BLE001 (the interpreter may be ending)
        return
