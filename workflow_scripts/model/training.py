"""Training utilities for any model: device and precision, optimizer and LR schedule, BatchNorm re-estimation."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
from collections.abc import Callable, Container, Generator, Iterable, Sequence

import numpy as np
import torch

from core import processors
from core.files import UserError
from data.augment import Draw, TrainImages
from model import gpu_decoder, synced_batchnorm
from model.timm_modules import levit

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST = 1 << 30  # bytes of a tensor
NICER = 5  # processes that load leave the processors to the one that keeps a GPU busy
OPTIONS = {"warmup": 0.1, "decay": "cosine", "clip": 1.0, "betas": (0.9, 0.999)}  # as in the schema
SMALLEST_SCALE = 2.0**-14  # of a loss; below it, no step had finite gradients for long


def start(seed: int, threads: int, device: str) -> torch.device:
    """Seed torch, set its threads (0: all cores available to this process) and return the torch device.

    device: auto (a CUDA GPU if there is one, else the CPU), cpu or cuda. Raises UserError if it is not available.
    """
    _keep_memory()
    torch.manual_seed(seed)
    torch.set_num_threads(threads or processors.available())
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {device}: torch {torch.__version__} finds no CUDA GPU: use cpu or auto")
    if device == "cpu":
        torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, which imports Inductor
        torch.utils.deterministic.fill_uninitialized_memory = False  # 5 to 10 times slower, without effect
    return torch.device(device)


def _keep_memory():
    """Keep freed memory in the process, where the C library is glibc: each step would fault its pages in anew."""
    with contextlib.suppress(OSError, AttributeError):
        allocator = ctypes.CDLL("libc.so.6")
        allocator.mallopt(M_MMAP_THRESHOLD, LARGEST)
        allocator.mallopt(M_TRIM_THRESHOLD, LARGEST)


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager:
    """Return a context in which matrix products run in `dtype` (None: unchanged)."""
    return torch.autocast(device.type, dtype=dtype) if dtype is not None else contextlib.nullcontext()


def rate_at(step: int, steps: int, warmup: float, decay: str = "cosine") -> float:
    """Return the factor of the learning rate at a step: linear over the `warmup` share of all steps, then `decay`."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    past = (step - rising) / max(1, steps - rising)
    return 1 - past if decay == "linear" else 0.5 * (1 + math.cos(math.pi * past))


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Return AdamW's groups: matrices and kernels decay; biases, norms and attention biases do not."""
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    plain = {name for name, value in named if value.ndim < 2 or name.endswith("attention_biases")}
    return [
        {"params": [value for name, value in named if name not in plain], "weight_decay": weight_decay},
        {"params": [value for name, value in named if name in plain], "weight_decay": 0.0},
    ]


class Optimizer:
    """AdamW over a fixed number of steps: linear warm-up, then a decay; gradients clipped by norm."""

    def __init__(self, groups: list[dict], steps: int, recipe: dict, kind: torch.dtype | None = None) -> None:
        """Prepare. groups: AdamW's; recipe: {learning_rate, and any of OPTIONS}.

        kind: of the matrix products; float16 needs its loss scaled, as its smallest gradients are zero otherwise.
        """
        self.recipe = recipe = {**OPTIONS, **recipe}
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.adamw = torch.optim.AdamW(groups, lr=recipe["learning_rate"], betas=recipe["betas"], fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.adamw, lambda step: rate_at(step, steps, recipe["warmup"], recipe["decay"])
        )
        self.scaler = torch.amp.GradScaler(self.parameters[0].device.type, enabled=kind is torch.float16)
        self._parts = {"optimizer": self.adamw, "scheduler": self.scheduler, "scaler": self.scaler}
        self.exchange: Callable[[], None] | None = None  # averages gradients over processes, before they are clipped
        self._last: _Reading | None = None
        self._diverged = ""

    def step(self, loss: torch.Tensor, diverged: str) -> float:
        """Take one step on a scalar loss; return the last loss that is known: this one's on a CPU, else the one before.

        A GPU that had to tell this step's loss would have nothing to do meanwhile. Raises UserError with the text
        `diverged` if that loss is not finite; `state` and `finish` check the last one.
        """
        now = _Reading(loss.detach())
        known = now if loss.device.type == "cpu" or self._last is None else self._last
        self._last, self._diverged = now, diverged
        value = self._finite(known)
        self.adamw.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.exchange:
            self.exchange()
        self.scaler.unscale_(self.adamw)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.recipe["clip"])
        self.scaler.step(self.adamw)
        self.scaler.update()
        self.scheduler.step()
        return value

    def finish(self) -> None:
        """Check the last loss, and that a scaled loss still has gradients; raise UserError as `step` does."""
        if self._last is not None:
            self._finite(self._last)
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            raise UserError(self._text())

    def _finite(self, reading):
        value = reading.value()
        if not math.isfinite(value):
            raise UserError(self._text())
        return value

    def _text(self):
        return self._diverged + (", or set compute: bf16 or fp32" if self.scaler.is_enabled() else "")

    def state(self) -> dict:
        """Return everything that a step changes, except the parameters."""
        self.finish()
        return {name: part.state_dict() for name, part in self._parts.items()}

    def restore(self, state: dict) -> None:
        """Restore what `state` returned; other keys are ignored."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])


class _Reading:
    """A scalar on its way from a device: reading it later does not wait for what the device was given since."""

    def __init__(self, scalar):
        self._copy = scalar.to("cpu", non_blocking=True)
        self._copied = torch.cuda.current_stream(scalar.device).record_event() if scalar.is_cuda else None

    def value(self):
        if self._copied:
            self._copied.synchronize()
        return self._copy.item()


def batches(
    images: TrainImages, draws: Iterable[list[Draw]], row: dict, device: torch.device, workers: int | None = None
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """Start to load; return a generator of (inputs float32 [N, 3, S, S], labels int64 [N]) on the device.

    draws: of each batch, which may be of many epochs: loading does not pause between them; row: of `models` (mean,
    std); workers: processes that load, which change no batch (0: this one; None: as many as threads, where it helps).
    """
    gpu, by_gpu = device.type == "cuda", (images.recipe or {}).get("decoder") == "gpu"
    if workers is None:
        workers = torch.get_num_threads() if gpu or not images.in_memory else 0
    if by_gpu:
        gpu_decoder.check(device)
    elif workers and images.in_memory:
        images.decode()  # once, for all of them
    source = gpu_decoder.Files(images) if by_gpu else images
    options = {"collate_fn": gathered, "pin_memory": gpu and not by_gpu}
    if workers:  # a process of several is spawned, and would spawn in turn: each would import torch and get all images
        options["multiprocessing_context"] = "fork"
    if workers and gpu:
        options["worker_init_fn"] = _step_back
    loader = torch.utils.data.DataLoader(source, batch_sampler=draws, num_workers=workers, **options)
    loaded = iter(loader)  # its processes start here
    if by_gpu:
        loaded = gpu_decoder.batches(loaded, images.geometry["interpolation"], device)
    return _inputs(loaded, row, device)


def _inputs(loaded, row, device):
    try:
        for pixels, labels in loaded:
            yield to_input(pixels, row["mean"], row["std"], device), labels.to(device, non_blocking=True)
    except UserError as error:  # a loading process adds its traceback to the text
        raise UserError(str(error).rpartition("UserError: ")[2].strip()) from None


def _step_back(worker):
    os.nice(NICER)


def gathered(items: list) -> tuple[torch.Tensor, torch.Tensor] | gpu_decoder.Batch:
    """Return a batch of what a dataset of images returns."""
    return gpu_decoder.gathered(items) if isinstance(items[0], gpu_decoder.Item) else stacked(items)


def stacked(items: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (uint8 [N, S, S, 3], int64 [N]) of images and labels; arrays that Pillow owns are only read."""
    images, labels = zip(*items)
    return torch.from_numpy(np.stack(images)), torch.tensor([int(label) for label in labels])


def to_input(batch: torch.Tensor, mean: Sequence[float], std: Sequence[float], device: torch.device) -> torch.Tensor:
    """Return uint8 [N, H, W, 3] as float32 [N, 3, H, W] on the device, like `preprocess.normalize`."""
    scaled = batch.to(device, non_blocking=True).permute(0, 3, 1, 2).to(torch.float32)
    return scaled.div_(255).sub_(_channels(tuple(mean), device)).div_(_channels(tuple(std), device))


@functools.lru_cache
def _channels(values, device):
    """Return float32 [1, C, 1, 1], made once: a GPU's own copy of them would wait for all it has to do."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)


def recalibrate_batchnorm(
    model: torch.nn.Module, batches: Iterable[torch.Tensor], frozen: Container[torch.nn.Module] = ()
) -> None:
    """Average BatchNorm statistics, but those of `frozen`, over batches of inputs; leave the model in eval mode.

    Where several processes train, each has batches of its own, and all of them get the average over all batches.
    """
    kind = torch.nn.modules.batchnorm._BatchNorm
    norms = [module for module in model.modules() if isinstance(module, kind) and module not in frozen]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # makes torch average all batches equally
        norm.train()
    count = 0
    with torch.no_grad():
        for batch in batches:
            model(batch)
            count += 1
    synced_batchnorm.average(norms, count)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.eval()


def resizable(model: torch.nn.Module) -> bool:
    """Return whether `set_size` supports the network: a LeViT."""
    return isinstance(model, levit.Levit)


def set_size(model: levit.Levit, size: int) -> None:
    """Make a timm LeViT take images of size x size: a multiple of its stem's stride, at most its original size.

    The weights do not change: attention biases are a table by token distance, of which a smaller grid uses a corner.
    """

    def indices(queries, keys, table):
        across = (queries[:, None] - keys[None, :]).abs()
        rows, columns = across[:, None, :, None], across[None, :, None, :]
        return (rows * table + columns).reshape(len(queries) ** 2, len(keys) ** 2)

    grid = size // model.stem.stride
    for stage in model.stages:
        down = getattr(stage.downsample, "attn_downsample", None)
        if down is not None:
            keys = torch.arange(grid, device=down.attention_biases.device)
            table = math.isqrt(down.attention_biases.shape[1])
            down.attention_bias_idxs = indices(keys[:: down.stride], keys, table)
            down.resolution = down.q.down.resolution = (grid, grid)
            grid = (grid - 1) // down.stride + 1
        for block in stage.blocks:
            keys = torch.arange(grid, device=block.attn.attention_biases.device)
            block.attn.attention_bias_idxs = indices(keys, keys, math.isqrt(block.attn.attention_biases.shape[1]))
            block.attn.resolution = (grid, grid)
