"""Data-parallel training in several processes of one machine, started by torchrun's launcher.

DistributedDataParallel averages gradients, by NCCL between GPUs and by gloo between CPU processes.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher import api

from core.files import UserError
from data import index
from model import context, training


def count(wanted: int, batch: int, device: torch.device, name: str) -> int:
    """Return the number of processes to start.

    wanted: their number, or 0 for one per GPU (one on a CPU), fewer if they cannot share a batch evenly;
    batch: images per step, `name` in config.yaml. Raises UserError if a wanted number cannot share it evenly.
    """
    if wanted and batch % wanted:
        raise UserError(f"--processes {wanted}: {name} {batch} cannot be shared evenly among them")
    most = wanted or (torch.cuda.device_count() if device.type == "cuda" else 1)
    return next(number for number in range(most, 0, -1) if batch % number == 0)


def run(train: Callable, args: Any, batch: int, name: str) -> tuple[int, torch.device, int]:
    """Call train(args) in one process or several; return (training images, device, processes).

    batch: images per step, `name` in config.yaml. Raises UserError where the dataset does not fit the arguments.
    """
    listing = index.read(args.index)
    if len(listing["classes"]) != args.classes:
        raise UserError(f"--classes {args.classes}: {args.index} has {len(listing['classes'])} classes")
    device, images = training.start(args.seed, args.threads, args.device), index.count(listing, "train")
    if images < batch:
        raise UserError(f"{name} {batch} is more than the {images} training images")
    processes = count(args.processes, batch, device, name)
    if processes > 1:
        launch(train, processes, args)
    else:
        train(args)
    return images, device, processes


def launch(function: Callable, processes: int, *arguments: object) -> None:
    """Run function(*arguments) in several processes; raise UserError with the text of the first failure."""
    os.environ["NCCL_NVLS_ENABLE"] = "0"  # no NVLink multicast: some hosts report it and lack it
    rendezvous = {"run_id": f"levit-{uuid.uuid4().hex}", "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    config = api.LaunchConfig(1, 1, processes, max_restarts=0, **rendezvous)
    try:
        api.elastic_launch(config, _member)(function, *arguments)
    except ChildFailedError as error:
        message = error.get_first_failure()[1].message
        text = message if isinstance(message, str) else message["message"]
        raise UserError(f"one of {processes} processes failed: {text.rpartition('UserError: ')[2]}") from None


@record  # passes an error's text to the launcher
def _member(function, *arguments):
    function(*arguments)


@contextlib.contextmanager
def group(device: torch.device, threads: int) -> Iterator[tuple[int, int, torch.device]]:
    """Join the processes that `launch` started; yield (rank, number of processes, device), or (0, 1, device) if alone.

    threads: CPU threads of all processes together (0: all cores); each process has its own GPU.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield 0, 1, device
        return
    local, processes = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    torch.set_num_threads(max(1, context.of_processor(threads) // processes))
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size(), device
    finally:
        dist.destroy_process_group()
