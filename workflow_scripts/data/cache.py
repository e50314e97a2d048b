"""Preprocessed images as one .npy of uint8 [N, size, size, 3], filled by several processes, read as a memory map."""

import logging
import mmap
import multiprocessing
import os
from multiprocessing.connection import wait

import numpy as np

from core import progress
from core.files import UserError, digest_of
from data import held, preprocess
from data.row_file import Rows

log = logging.getLogger("levit")
BLOCK = 8  # images between two reports of a process
BAD = 20  # images that cannot be read after which no more are looked for
RELEASE = 64 << 20  # bytes of a memory map that are read before its pages are given back


def write(path, images, geometry, workers=0, digests=None, code=None, rows=None):
    """Preprocess images (sources) into `path`, in their order; `workers` processes (0: one a core).

    digests: SHA-256 of each image's bytes, which are held to it; code: text that stands for what preprocesses, or None;
    rows: what the files of an unfinished run are named by (see Rows), which the next run goes on from; absent: path.
    Returns how many images were still to be done; raises UserError naming those that cannot be read.
    """
    size = geometry["size"]
    preprocess.filter_of(geometry["interpolation"])
    digests = digests or [None] * len(images)
    rows = Rows(rows or path, (len(images), size, size, 3), digest_of([geometry, code]), digests)
    missing = rows.missing()
    count = max(1, min(workers or len(os.sched_getaffinity(0)), len(missing) // BLOCK))
    shares = [missing[number::count] for number in range(count)]
    _in_processes(_fill, [(rows, images, digests, geometry, share) for share in shares], len(missing), path)
    rows.finish(path)
    return len(missing)


def _in_processes(function, tasks, total, path):
    """Call function(pipe, *task) for each task in a process of its own; raise UserError for what goes wrong in one."""
    context, processes, readers = multiprocessing.get_context("fork"), [], []
    for task in tasks:
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=function, args=(writer, *task), daemon=True)
        process.start()
        writer.close()  # so that a process's end is the end of its pipe
        readers.append(reader)
        processes.append(process)
    try:
        _follow(readers, processes, total, os.path.basename(str(path)))
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _fill(writer, rows, images, digests, geometry, share):
    """Preprocess a share of the images in a process of its own; send counts, errors' texts, and None at the end."""
    for done, position in enumerate(share, start=1):
        try:
            digest = digests[position]
            content = held.read(images[position], digest and f"sha256:{digest}")
            rows.put(position, preprocess.pixels(content, images[position], geometry))
        except UserError as error:
            writer.send(str(error))
        except MemoryError:
            writer.send(f"no memory left at image {images[position]}: use fewer --workers")
        if done % BLOCK == 0 or done == len(share):
            writer.send((done - 1) % BLOCK + 1)
    writer.send(None)


def _follow(readers, processes, total, name):
    process_of, problems = dict(zip(readers, processes)), []
    with progress.bar(total, f"decode {name}") as bar:
        while process_of and len(problems) < BAD:
            for reader in wait(list(process_of)):
                try:
                    message = reader.recv()
                except EOFError:
                    process_of[reader].join()
                    code = process_of[reader].exitcode
                    raise UserError(f"a decoding process died (status {code}): use fewer --workers") from None
                if message is None:
                    del process_of[reader]
                elif isinstance(message, str):
                    problems.append(message)
                else:
                    bar.update(message)
    if problems:
        for problem in sorted(problems)[1:]:
            log.warning(problem)
        raise UserError(sorted(problems)[0] + (f" (and {len(problems) - 1} others)" if len(problems) > 1 else ""))


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


def batches(images, step):
    """Yield (first position, uint8 [step, size, size, 3]) of all images; little of a memory map stays in memory."""
    pages, seen = getattr(images, "_mmap", None), 0
    for start in range(0, len(images), step):
        batch = images[start : start + step]
        yield start, batch
        seen += batch.nbytes
        if pages is not None and seen >= RELEASE:
            pages.madvise(mmap.MADV_DONTNEED)
            seen = 0
