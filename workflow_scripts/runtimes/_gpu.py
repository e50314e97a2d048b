"""A loaded TensorRT engine on a GPU: its tensors, contexts and buffers, queries and layers.

`Tensors` and `Bindings` are TensorRT's newer and older (8.4) interfaces to an engine's inputs and outputs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from core.files import UserError
from runtimes import Session, Timing, _cuda, _pipeline, _tensorrt

# the end of the layers' names of all optimization profiles but the first
PROFILE_SUFFIX = re.compile(r" \[profile (\d+)\]$")


class Tensors:
    """Inputs and outputs by name: TensorRT 8.5 and later."""

    @staticmethod
    def is_available(trt: Any) -> bool:
        """Return whether a version of TensorRT has this interface."""
        return hasattr(trt.IExecutionContext, "execute_async_v3")

    def __init__(self, trt: Any, engine: Any):
        self.engine = engine
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        self.inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = [name for name in names if name not in self.inputs]

    def dtype(self, name: str) -> Any:
        """Return a tensor's TensorRT data type."""
        return self.engine.get_tensor_dtype(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, -1 where the size is free."""
        return tuple(self.engine.get_tensor_shape(name))

    def profile(self, number: int, name: str) -> Any:
        """Return the (least, best, largest) shapes of an input in an optimization profile."""
        return self.engine.get_tensor_profile_shape(name, number)

    def set_batch(self, context: Any, number: int, batch: int) -> None:
        """Set the batch of a context's queries. number: of its optimization profile."""
        for name in self.inputs:
            context.set_input_shape(name, (batch,) + self.shape(name)[1:])

    def enqueuer(
        self, context: Any, number: int, addresses: dict[str, int], batch: int, stream: int
    ) -> Callable[[], bool]:
        """Return a function that puts a query into a stream. addresses: {tensor name: address}."""
        self.set_batch(context, number, batch)

        def enqueue():
            for name, address in addresses.items():
                context.set_tensor_address(name, address)
            return context.execute_async_v3(stream)

        return enqueue


class Bindings:
    """Inputs and outputs by number, those of each optimization profile after another: up to TensorRT 8.6."""

    @staticmethod
    def is_available(trt: Any) -> bool:
        """Return whether a version of TensorRT has this interface."""
        return hasattr(trt.IExecutionContext, "execute_async_v2")

    def __init__(self, trt: Any, engine: Any):
        self.engine = engine
        self.count = engine.num_bindings // engine.num_optimization_profiles
        names = [engine.get_binding_name(number) for number in range(self.count)]
        self.inputs = [name for number, name in enumerate(names) if engine.binding_is_input(number)]
        self.outputs = [name for name in names if name not in self.inputs]
        self.numbers = {name: number for number, name in enumerate(names)}

    def dtype(self, name: str) -> Any:
        """Return a tensor's TensorRT data type."""
        return self.engine.get_binding_dtype(self.numbers[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, -1 where the size is free."""
        return tuple(self.engine.get_binding_shape(self.numbers[name]))

    def profile(self, number: int, name: str) -> Any:
        """Return the (least, best, largest) shapes of an input in an optimization profile."""
        return self.engine.get_profile_shape(number, number * self.count + self.numbers[name])

    def set_batch(self, context: Any, number: int, batch: int) -> None:
        """Set the batch of a context's queries. number: of its optimization profile."""
        for name in self.inputs:
            context.set_binding_shape(number * self.count + self.numbers[name], (batch,) + self.shape(name)[1:])

    def enqueuer(
        self, context: Any, number: int, addresses: dict[str, int], batch: int, stream: int
    ) -> Callable[[], bool]:
        """Return a function that puts a query into a stream. addresses: {tensor name: address}."""
        self.set_batch(context, number, batch)
        bindings = [0] * self.engine.num_bindings
        for name, position in self.numbers.items():
            bindings[number * self.count + position] = addresses[name]
        return lambda: context.execute_async_v2(bindings=bindings, stream_handle=stream)


class Slot(_pipeline.Slot):
    """Pinned and device memory for one query of an optimization profile (`number`)."""

    def __init__(self, number: int, shapes: dict[str, tuple[int, ...]], types: list[type], spin: bool):
        """shapes: of the input and of the output, by name; types: of their elements."""
        super().__init__(_cuda.Event, spin)
        self.number, (self.source, self.target) = number, shapes
        pinned = [_cuda.PinnedArray(shape, kind) for shape, kind in zip(shapes.values(), types)]
        self.host = dict(zip(shapes, pinned))
        self.device = {name: _cuda.DeviceBuffer(array.nbytes) for name, array in self.host.items()}

    @property
    def images(self) -> np.ndarray:
        """The query's images in host memory."""
        return self.host[self.source].array

    def copy_in(self, stream: _cuda.Stream) -> None:  # noqa: D102
        stream.to_device(self.device[self.source], self.host[self.source])

    def copy_out(self, stream: _cuda.Stream) -> None:  # noqa: D102
        stream.to_host(self.host[self.target], self.device[self.target])


class GpuSession(Session):
    """A session of a TensorRT engine; each optimization profile has a context, which is created when first needed."""

    on_gpu = True
    Stream, Event = _cuda.Stream, _cuda.Event  # of the pipeline

    def __init__(self, trt: Any, engine: Any, path: str, interface: type | None = None):
        """engine: deserialized; interface: Tensors or Bindings, by default the newest that the library has."""
        self.trt, self.engine, self.name = trt, engine, path
        interface = interface or (Tensors if Tensors.is_available(trt) else Bindings)
        self.io = interface(trt, engine)
        self._check_tensors()
        source, self.target = self.io.inputs[0], self.io.outputs[0]
        self.source, self.inputs = source, {source: list(self.io.shape(source))}
        self.outputs = {self.target: list(self.io.shape(self.target))}
        self.ranges = [self._range(number) for number in range(engine.num_optimization_profiles)]
        self.batches = sorted({most for _, _, most in self.ranges})
        self.facts = {"threads": None, "cuda_graph": False}
        self.stream = _cuda.Stream()
        self._contexts: dict[int, Any] = {}
        self._slots: dict[tuple[int, int], Slot] = {}

    def _range(self, number):
        """Return the (least, best, largest) batch of an optimization profile; all one where the engine's is fixed."""
        fixed = self.inputs[self.source][0]
        return (fixed,) * 3 if fixed > 0 else tuple(shape[0] for shape in self.io.profile(number, self.source))

    def _check_tensors(self):
        names = self.io.inputs + self.io.outputs
        pixels = [name for name in self.io.inputs if self.io.dtype(name) == getattr(self.trt, "uint8", None)]
        odd = [name for name in names if self.io.dtype(name) != self.trt.float32 and name not in pixels]
        if len(self.io.inputs) != 1 or len(self.io.outputs) != 1 or odd:
            raise UserError(f"{self.name} has the tensors {', '.join(names)}: one input and float32 output are needed")
        self.dtype = np.uint8 if pixels else np.float32

    # Queries

    def _fitting(self, count):
        return max(most for _, _, most in self.ranges)  # a rest is padded to a profile's least batch

    def _run_batch(self, part):
        number, batch = self._profile(len(part), padding=True)
        if (number, batch) not in self._slots:
            self._slots[number, batch] = self._slot(number, batch, spin=False)
        slot, stream = self._slots[number, batch], self.stream
        slot.images[: len(part)] = part
        slot.images[len(part) :] = 0
        slot.copy_in(stream)
        self.enqueuer(slot, stream)()  # a context has one shape at a time: it is set again for each query
        slot.copy_out(stream)
        stream.synchronize()
        return np.array(slot.host[self.target].array[: len(part)])

    def _profile(self, count, padding=False):
        """Return (profile, batch) for a number of images: the profile tuned for the nearest; padded up to its least."""
        fitting = [(best, number) for number, (least, best, most) in enumerate(self.ranges) if least <= count <= most]
        if fitting:
            return min((abs(best - count), number) for best, number in fitting)[1], count
        if padding and count < self._fitting(count):
            least, number = min((least, n) for n, (least, _, _) in enumerate(self.ranges) if least > count)
            return number, least
        built = ", ".join(f"{least} to {most}" if least < most else f"{most}" for least, _, most in self.ranges)
        reason = f"has no profile for batch {count}, only for {built}"
        raise UserError(f"{self.name} {reason}: add it to the target's batches")

    def optimization_profile(self, batch: int) -> int:  # noqa: D102
        return self._profile(batch)[0]

    def context(self, number: int) -> Any:
        """Return the execution context of an optimization profile; raise UserError where there is no memory for it."""
        if number not in self._contexts:
            context = self.engine.create_execution_context()
            if context is None:
                reason = _tensorrt.logger_of(self.trt).errors()
                raise UserError(f"{self.name}: no room to run it ({reason}): {_cuda.LOWER}")
            if self.engine.num_optimization_profiles > 1:
                context.set_optimization_profile_async(number, int(self.stream.handle))
                self.stream.synchronize()
            self._contexts[number] = context
        return self._contexts[number]

    def _slot(self, number, batch, spin):
        shapes = {name: (batch,) + self.io.shape(name)[1:] for name in (self.source, self.target)}
        return Slot(number, shapes, [self.dtype, np.float32], spin)

    # Timing

    def time(self, images: np.ndarray, loop: Any) -> Timing:
        """Return the Timing. loop.options: {cuda_graph, spin_wait, transfers}, each on where it is not given."""
        pipeline = self.pipeline(self._checked(images), loop.options)
        self.facts = {"threads": None, "cuda_graph": pipeline.graphs}
        return pipeline.run(loop)

    def pipeline(self, images: np.ndarray, options: dict) -> _pipeline.Pipeline:
        """Return a Pipeline of queries with these images; options: as `time` has them."""
        number, batch = self._profile(len(images))
        slots = [self._slot(number, batch, options.get("spin_wait", True)) for _ in range(_pipeline.IN_FLIGHT)]
        for slot in slots:
            slot.images[:] = images
        return _pipeline.Pipeline(self, slots, options)

    def enqueuer(self, slot: Slot, stream: _cuda.Stream) -> Callable[[], None]:
        """Return a function that enqueues a slot's query, and raises UserError where TensorRT refuses it."""
        addresses = {name: buffer.address for name, buffer in slot.device.items()}
        context, batch = self.context(slot.number), len(slot.images)
        put = self.io.enqueuer(context, slot.number, addresses, batch, int(stream.handle))

        def enqueue():
            if not put():
                raise UserError(f"{self.name}: a query failed: {_tensorrt.logger_of(self.trt).errors()}")

        return enqueue

    def capture(self, stream: _cuda.Stream, work: Callable[[], Any]) -> Callable[[], None]:
        """Return a function that launches what `work()` enqueues as a CUDA graph; raise UserError where it cannot."""
        return functools.partial(stream.capture(work).launch, stream)


def layers(session: GpuSession) -> list[dict]:
    """Return an engine's layers as the inspector lists them.

    It lists no types of free sizes (`N/A due to dynamic shapes`) until a context of the profile has been given them;
    8.5 lists none even then, so that layers of a profile with more than one batch have the precision `none` there.
    """
    rows = _tensorrt.layers_of_engine(session.trt, session.engine)
    for number, (_, best, _) in enumerate(session.ranges):
        if all(row["precision"] != "none" for row in rows):
            break
        context = session.context(number)
        session.io.set_batch(context, number, best)
        more = _tensorrt.layers_of_engine(session.trt, session.engine, context)
        rows = [new if old["precision"] == "none" else old for old, new in zip(rows, more)]
    return rows


def of_largest_batch(layers: list[dict]) -> list[dict]:
    """Return the layers of the last optimization profile, which a query of the largest batch executes.

    The inspector lists those of all profiles, later ones by names that end in `[profile N]`. Where it does not list
    their precision, those of the first profile stand for them.
    """
    by_profile: dict[int, list[dict]] = {}
    for row in layers:
        suffix = PROFILE_SUFFIX.search(row["name"])
        by_profile.setdefault(int(suffix.group(1)) if suffix else 0, []).append(row)
    last = by_profile[max(by_profile)] if by_profile else []
    return last if all(row["precision"] != "none" for row in last) else by_profile.get(0, last)


def profile(session: GpuSession, layers: list[dict], batch: int, queries: int) -> list[dict]:
    """Return an engine's layers with their milliseconds, averaged over some queries of a batch, without a CUDA graph.

    layers: as the inspector names them; a layer that the profiler names otherwise has the precision `unknown`.
    """
    number = session.optimization_profile(batch)
    images = np.zeros([batch] + session.inputs[session.source][1:], session.dtype)
    trt, times = session.trt, {}

    class Profiler(trt.IProfiler):  # type: ignore[name-defined]
        def report_layer_time(self, name, ms):
            times[name] = times.get(name, 0.0) + ms

    profiler = Profiler()
    session.run(images)
    session.context(number).profiler = profiler
    for _ in range(queries):
        session.run(images)
    rows, unknown = {layer["name"]: layer for layer in layers}, {"type": "unknown", "precision": "unknown"}
    return [{**rows.get(name, {"name": name, **unknown}), "ms": ms / queries} for name, ms in times.items()]
