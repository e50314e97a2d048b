"""Data-parallel training in several processes of one machine, started by torchrun's launcher.

Gradients are averaged by NCCL between GPUs, and in memory that they share between processes of a CPU.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch.distributed.elastic import multiprocessing
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher import api

from core import processors
from core.command import Job
from core.files import UserError
from data import index
from data.processes import end_with_parent
from model import shared_gradients, training
from model.resume import Resume

RUN = "levit-"  # how the names of our own launches begin
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # of gloo
_gradients: int | None = None  # descriptor of the file for shared gradients, which forks inherit


def run(train: Callable, args: Job, recipe: dict, name: str, output: str) -> str:
    """Call train(args) in one process or several; return what was trained on what, as a text for the log.

    recipe: a part of config.yaml with this name, as of `context.of_training`; output: the argument whose file is
    trained. Raises UserError where the dataset does not fit the arguments.
    """
    listing = index.read(args.index)
    if len(listing["classes"]) != args.classes:
        raise UserError(f"--classes {args.classes}: {args.index} has {len(listing['classes'])} classes")
    images, processes = index.count(listing, "train"), args.context["processes"]
    if images < recipe["batch"]:
        raise UserError(f"{name}.batch {recipe['batch']} is more than the {images} training images")
    device = training.start(args.seed, 1, args.device)  # no threads of OpenMP yet, which a fork would lose
    before = resume_of(args, output)
    before.load()
    if processes > 1:
        launch(train, processes, "fork" if device.type == "cpu" else "spawn", args)
    else:
        train(args)
    others = [number for number in before.history if number != processes]
    if others:  # a killed training went on: its record tells with how many it began
        args.context["processes_before"] = before.history
    return f"{images} images in {args.context['dtype']} on {device}, {processes} processes"


def resume_of(args: Job, output: str) -> Resume:
    """Return the saved state of a job, which any number of processes goes on from."""
    return Resume(args.final(output), args.key_without("processes"), args.context["processes"])


def launch(function: Callable, processes: int, method: str, *arguments: object) -> None:
    """Run function(*arguments) in several processes; raise UserError with the text of the first failure.

    method: fork, which takes over what this process has imported, or spawn, which a process with CUDA needs.

    The launcher is that of torchrun, called from here: the command stays one process, which has the store's key and the
    outputs, and torchrun's own command line would start it several times.
    """
    global _gradients
    _gradients = shared_gradients.file() if method == "fork" else None
    os.environ["NCCL_NVLS_ENABLE"] = "0"  # no NVLink multicast: some hosts report it and lack it
    rendezvous = {"run_id": f"{RUN}{uuid.uuid4().hex}", "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    for name in (f"{multiprocessing.__name__}.api", "torch.multiprocessing.spawn"):
        logging.getLogger(name).addFilter(_unexpected)
    logging.getLogger("torch.distributed.elastic.agent.server.api").setLevel(logging.ERROR)  # it tells of each Ctrl-C
    options = {"start_method": method, "max_restarts": 0, "local_addr": "localhost"}
    config = api.LaunchConfig(1, 1, processes, **options, **rendezvous)
    try:
        api.elastic_launch(config, _member)(function, *arguments)
    except ChildFailedError as error:
        raise UserError(f"one of {processes} processes {_failure(error)}") from None
    except SignalException as error:
        sys.exit(128 + error.sigval)


def _unexpected(record):
    """Return whether a line of the launcher says more than the error that follows it: a traceback of our own code."""
    error = record.exc_info and record.exc_info[1]
    has_line = any(words in str(error) for words in ("UserError: ", *LOST))
    return isinstance(error, torch.multiprocessing.ProcessRaisedException) and not has_line


def _failure(error):
    """Return what went wrong first; a killed process counts before those that lost their connection to it."""
    killed = [failure for failure in error.failures.values() if failure.exitcode < 0]
    if killed:
        return f"was killed (signal {-killed[0].exitcode}), perhaps because memory ran out: run again to go on"
    message = error.get_first_failure()[1].message
    text = message if isinstance(message, str) else message["message"]
    if any(words in text for words in LOST):
        return "lost its connection to another, which was killed, perhaps because memory ran out: run again to go on"
    return f"failed: {text.rpartition('UserError: ')[2]}"


@record  # passes an error's text to the launcher
def _member(function, *arguments):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # in place of the launcher's, which prints a traceback here
    if os.environ["RANK"] != "0":
        logging.disable(logging.INFO)  # the first one says what all of them see
    end_with_parent()  # in place of torch's SIGINT, which a process that waits for NCCL does not see
    function(*arguments)


@contextlib.contextmanager
def group(device: torch.device, threads: int) -> Iterator[tuple[int, int, torch.device]]:
    """Yield (rank, number of processes, device) of a process that `launch` started, or (0, 1, device) if alone.

    threads: CPU threads of all processes together (0: all cores); each process has its own GPU. Once its processes that
    load images have started, `connect` connects it with the others.
    """
    rank, processes = 0, 1
    if os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(RUN):  # someone else's torchrun may run the workflow
        rank, processes = int(os.environ["RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        torch.set_num_threads(max(1, (threads or processors.available()) // processes))
        if device.type == "cuda":
            device = torch.device("cuda", rank)
            torch.cuda.set_device(device)
    try:
        yield rank, processes, device
    except RuntimeError as error:  # torch finds out at any time that a process which loads images was killed
        if "DataLoader worker" not in str(error):
            raise
        perhaps = "perhaps because memory or /dev/shm is full (docker run --shm-size=8g): run again to go on"
        raise UserError(f"a process that loads images was killed, {perhaps}") from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def connect(processes: int, device: torch.device) -> None:
    """Connect the processes with each other, for collectives.

    Processes that are forked later inherit what the threads of NCCL hold at that moment, and wait for it forever.
    """
    if processes > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def average_gradients(optimizer: training.Optimizer) -> None:
    """Have an optimizer step on gradients averaged over the connected processes; buffers stay each process's own."""
    parameters = optimizer.parameters
    if _gradients is None:
        optimizer.exchange = shared_gradients.FlatGradients(parameters).average
    else:
        optimizer.exchange = shared_gradients.SharedGradients(_gradients, parameters).average
