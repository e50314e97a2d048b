"""Preprocessed images as one .npy of uint8 [N, size, size, 3], filled by several processes, read as a memory map."""

import multiprocessing
import os
from multiprocessing.connection import wait

import numpy as np

import progress
from data import preprocess
from files import UserError

BLOCK = 8  # images between two reports of a process


def write(path, images, geometry, workers=0):
    """Preprocess image files into `path`, in their order; `workers` processes (0: one a core).

    Raises UserError naming the first image found that cannot be read; `path` is then of no use.
    """
    size = geometry["size"]
    preprocess.filter_of(geometry["interpolation"])
    target = np.lib.format.open_memmap(str(path), mode="w+", dtype=np.uint8, shape=(len(images), size, size, 3))
    _allocate(path)
    count = max(1, min(workers or len(os.sched_getaffinity(0)), len(images) // BLOCK))
    context = multiprocessing.get_context("fork")
    readers, processes = [], []
    for number in range(count):
        reader, writer = context.Pipe(duplex=False)
        args = (writer, target, images, geometry, range(number, len(images), count))
        process = context.Process(target=_fill, args=args, daemon=True)
        process.start()
        writer.close()  # so that a process's end is the end of its pipe
        readers.append(reader)
        processes.append(process)
    try:
        _follow(readers, processes, len(images), os.path.basename(str(path)))
    finally:
        for process in processes:
            process.terminate()
            process.join()
    target.flush()


def _allocate(path):
    """Take the file's blocks now: a full disk is then an error here, and not a killed process at some image."""
    with open(path, "r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, os.path.getsize(path))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None


def _fill(writer, target, images, geometry, share):
    """Preprocess a share of the images in a process of its own; send counts, then None, or an error's text."""
    try:
        for done, position in enumerate(share, start=1):
            target[position] = preprocess.prepare(preprocess.load(images[position]), geometry)
            if done % BLOCK == 0 or done == len(share):
                writer.send((done - 1) % BLOCK + 1)
        writer.send(None)
    except UserError as error:
        writer.send(str(error))
    except MemoryError:
        writer.send(f"no memory left at image {images[position]}: use fewer --workers")


def _follow(readers, processes, total, name):
    process_of = dict(zip(readers, processes))
    with progress.bar(total, f"decode {name}") as bar:
        while process_of:
            for reader in wait(list(process_of)):
                try:
                    message = reader.recv()
                except EOFError:
                    process_of[reader].join()
                    code = process_of[reader].exitcode
                    raise UserError(f"a decoding process died (status {code}): use fewer --workers") from None
                if isinstance(message, str):
                    raise UserError(message)
                if message is None:
                    del process_of[reader]
                else:
                    bar.update(message)


def read(path, count=None):
    """Return the memory-mapped uint8 [N, size, size, 3]; raise UserError where it is damaged or N is not `count`."""
    try:
        images = np.load(str(path), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, EOFError, OSError):
        raise UserError(f"{path} is not a file of preprocessed images: delete it and run again") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"{path} holds {images.dtype} {list(images.shape)}, not uint8 [N, size, size, 3]: delete it")
    if count is not None and len(images) != count:
        raise UserError(f"{path} holds {len(images)} images, its split {count}: delete it and run again")
    return images
