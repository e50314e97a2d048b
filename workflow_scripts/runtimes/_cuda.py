"""CUDA through NVIDIA's own Python bindings: memory, streams, events, graphs and the device's properties.

cuda-bindings (Python 3.9 and later, from CUDA 11.8 on) has the module `cuda.bindings.runtime`, cuda-python 11.8.2 (the
last for Python 3.8) `cuda.cudart`; their functions are the same. Later versions of cuda-python only ask for
cuda-bindings. Every error becomes a UserError with CUDA's own name of it.
"""

import ctypes
import functools
import importlib

import numpy as np

from core.files import UserError

MODULES = ("cuda.bindings.runtime", "cuda.cudart")
REMEDY = "install cuda-bindings (Python 3.9 and later) or cuda-python 11.8.2 (Python 3.8), as envs/ pins them"
MIB = 1 << 20
LOWER = "lower the target's batches or workspace_mb, or end what else uses the GPU"


@functools.lru_cache(maxsize=None)
def library():
    """Return the bindings' module; raise UserError where none is installed."""
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise UserError(f"no CUDA bindings for Python are installed here: {REMEDY}")


class CudaError(UserError):
    """A CUDA call that failed."""


def call(function, *arguments):
    """Return what a CUDA function gives besides its status (None, a value, or a tuple); raise CudaError."""
    try:
        status, *values = getattr(library(), function)(*arguments)
    except RuntimeError as error:  # no driver: the bindings find no libcuda
        raise CudaError(f"{function} failed: {error}") from None
    if int(status) != 0:
        raise CudaError(f"{function} failed: {getattr(status, 'name', status)}")
    return values[0] if len(values) == 1 else tuple(values) or None


def _allocate(function, what, nbytes, *arguments):
    try:
        return int(call(function, nbytes, *arguments))
    except CudaError as error:
        if "MemoryAllocation" not in str(error):
            raise
        raise CudaError(f"{what}: {nbytes / MIB:.1f} MiB were asked for and are not there ({error}): {LOWER}") from None


class DeviceBuffer:
    """Memory of the GPU: `address`, `nbytes`."""

    def __init__(self, nbytes):
        self.nbytes = max(int(nbytes), 1)
        self.address = _allocate("cudaMalloc", "out of GPU memory", self.nbytes)

    def __del__(self):
        _quietly("cudaFree", self.__dict__.pop("address", None))


class PinnedArray:
    """Page-locked host memory: `array` is a numpy array over it, `address` where it starts."""

    def __init__(self, shape, dtype):
        count, dtype = int(np.prod(shape, dtype=np.int64)), np.dtype(dtype)
        self.nbytes = max(count * dtype.itemsize, 1)
        self.address = _allocate("cudaHostAlloc", "out of pinned host memory", self.nbytes, 0)
        memory = (ctypes.c_byte * self.nbytes).from_address(self.address)
        self.array = np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)

    def __del__(self):
        _quietly("cudaFreeHost", self.__dict__.pop("address", None))


class Event:
    """A point in a stream's time. blocking: waiting for it lets the processor sleep, else it spins."""

    def __init__(self, blocking=False):
        self.handle = call("cudaEventCreateWithFlags", 1 if blocking else 0)

    def record(self, stream):
        call("cudaEventRecord", self.handle, stream.handle)

    def wait(self):
        call("cudaEventSynchronize", self.handle)

    def since(self, earlier):
        """Return the milliseconds since another event; both must have happened."""
        return call("cudaEventElapsedTime", earlier.handle, self.handle)

    def __del__(self):
        _quietly("cudaEventDestroy", self.__dict__.pop("handle", None))


class Stream:
    """A queue of work on the GPU; copies are of whole buffers or of their first `nbytes`."""

    def __init__(self):
        self.handle = call("cudaStreamCreateWithFlags", 1)  # non-blocking: does not wait for the default stream

    def wait(self):
        call("cudaStreamSynchronize", self.handle)

    def wait_for(self, event):
        call("cudaStreamWaitEvent", self.handle, event.handle, 0)

    def to_device(self, target, source, nbytes):
        call("cudaMemcpyAsync", target.address, source.address, nbytes, _kind("cudaMemcpyHostToDevice"), self.handle)

    def to_host(self, target, source, nbytes):
        call("cudaMemcpyAsync", target.address, source.address, nbytes, _kind("cudaMemcpyDeviceToHost"), self.handle)

    def capture(self, work):
        """Return a Graph of what `work()` puts into this stream; raise CudaError where something cannot be captured."""
        relaxed = library().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", self.handle, relaxed)
        try:
            work()
        except BaseException:
            _quietly("cudaStreamEndCapture", self.handle)
            raise
        return Graph(call("cudaStreamEndCapture", self.handle))

    def __del__(self):
        _quietly("cudaStreamDestroy", self.__dict__.pop("handle", None))


class Graph:
    """Captured work that is launched as one."""

    def __init__(self, captured):
        try:
            self.handle = call("cudaGraphInstantiateWithFlags", captured, 0)
        finally:
            _quietly("cudaGraphDestroy", captured)

    def launch(self, stream):
        call("cudaGraphLaunch", self.handle, stream.handle)

    def __del__(self):
        _quietly("cudaGraphExecDestroy", self.__dict__.pop("handle", None))


def device():
    """Return {"name", "compute_capability", "memory_bytes", "multiprocessors"} of the current GPU; raise UserError."""
    number = call("cudaGetDevice")
    found = call("cudaGetDeviceProperties", number)
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return {
        "name": name.rstrip("\0"),
        "compute_capability": f"{found.major}.{found.minor}",
        "memory_bytes": int(found.totalGlobalMem),
        "multiprocessors": int(found.multiProcessorCount),
    }


def clear_error():
    """Forget the last error, which a failed capture leaves behind."""
    _quietly("cudaGetLastError")


def versions():
    """Return {"runtime", "driver"}: CUDA's versions as text."""
    numbers = {"runtime": call("cudaRuntimeGetVersion"), "driver": call("cudaDriverGetVersion")}
    return {name: f"{number // 1000}.{number % 1000 // 10}" for name, number in numbers.items()}


def _kind(name):
    return getattr(library().cudaMemcpyKind, name)


def _quietly(function, *arguments):
    """Call without minding the status: when something is given back, or while another error is on its way."""
    if arguments and arguments[0] is None:
        return
    try:
        getattr(library(), function)(*arguments)
    except Exception:  # noqa: BLE001 (the interpreter may be ending)
        return
