"""Several processes on one machine, each with a share of every batch: torchrun's launcher, called and not typed.

Gradients are averaged by DistributedDataParallel, through NCCL between GPUs and through gloo between processors.
"""

import contextlib
import os
import uuid

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher import api

from core.files import UserError
from model import context


def count(wanted, batch, device, name):
    """Return how many processes to start. wanted: their number, or 0 for one a GPU (on a CPU: one).

    batch: images a step, `name` in config.yaml. Of 0, fewer where a batch cannot be shared evenly; raises UserError
    where a wanted number cannot share it.
    """
    if wanted and batch % wanted:
        raise UserError(f"--processes {wanted}: {name} {batch} cannot be shared evenly among them")
    most = wanted or (torch.cuda.device_count() if device.type == "cuda" else 1)
    return next(number for number in range(most, 0, -1) if batch % number == 0)


def launch(function, processes, *arguments):
    """Run function(*arguments) in several processes; raise UserError with the text of the first one's that failed."""
    os.environ["NCCL_NVLS_ENABLE"] = "0"  # no NVLink multicast: not every host that reports it has it
    name = f"levit-{uuid.uuid4().hex}"
    config = api.LaunchConfig(
        1, 1, processes, run_id=name, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0
    )
    try:
        api.elastic_launch(config, _member)(function, *arguments)
    except ChildFailedError as error:
        message = error.get_first_failure()[1].message
        text = message if isinstance(message, str) else message["message"]
        raise UserError(f"one of {processes} processes failed: {text.rpartition('UserError: ')[2]}") from None


@record  # keeps an error's text for the launcher
def _member(function, *arguments):
    function(*arguments)


class Silent:
    """The progress bar of the processes that show none."""

    def update(self, count):
        pass

    def set_postfix_str(self, text, refresh):
        pass


@contextlib.contextmanager
def group(device, threads):
    """Join the processes that `launch` started; yield (rank, their number, device): (0, 1, device) in a lone process.

    threads: of all processes together on a processor (0: all cores); GPUs are taken in turn.
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
