"""Files that are not a checkpoint of a model, each with what its refusal says: {name: (write(path, state), regex)}."""

import builtins
import collections
import datetime
import decimal
import fractions
import functools
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import tarfile
import uuid
import zipfile

import numpy as np
import safetensors.torch
import torch

FIRST = "stem.conv1.linear.weight"


class Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def saved(change):
    """Return a writer of what torch.save makes of change(state)."""
    return lambda path, state: torch.save(change(dict(state)), path)


def one(change):
    """Return a writer of a state in which the first tensor is changed."""
    return saved(lambda state: {**state, FIRST: change(state[FIRST])})


def content(make):
    """Return a writer of bytes."""
    return lambda path, state: path.write_bytes(make(whole(state)))


def whole(state, **options):
    buffer = io.BytesIO()
    torch.save(dict(state), buffer, **options)
    return buffer.getvalue()


def holding(value):
    """Return a writer of a training checkpoint that keeps a value beside the weights."""
    return saved(lambda state: {"state_dict": state, "beside": value})


def script(path, state):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))


def header(text):
    return lambda data: struct.pack("<Q", len(text)) + text.encode() + b"\0" * 64


def archive(*names):
    def write(path, state):
        with zipfile.ZipFile(path, "w") as stream:
            for name in names:
                stream.writestr(name, b"1")

    return write


def folder(*names):
    def write(path, state):
        path.mkdir()
        for name in names:
            (path / name).write_bytes(whole(state))

    return write


def older(path, state):
    """A pickle as torch wrote files before 1.6, which holds more than weights."""
    torch.save({"state_dict": dict(state), "who": uuid.UUID(int=1)}, path, _use_new_zipfile_serialization=False)


def of_128(path, state):
    """One whose first byte after its pickles, the tensor's size, is that of a pickle: 0x80."""
    older(path, {"weight": torch.arange(128.0)})


def legacy_tar(path, state):
    with tarfile.open(path, "w") as stream:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            stream.addfile(tarfile.TarInfo(name))


def plain_pickle(value, protocol=4):
    return lambda path, state: path.write_bytes(pickle.dumps(value, protocol=protocol))


def numpy_file(path, state):
    np.savez(path.open("wb"), **{name: value.numpy() for name, value in list(state.items())[:3]})


def tensors(path, state, **changes):
    safetensors.torch.save_file({**state, **changes}, path)


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


def quantized(value):
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


DANGER = "is dangerous: loading it would run code"
MORE = r"is a pickle with more than weights in it \(it imports {}.*torch.save\(model.state_dict"
NONE = "holds no state dict: "
FILES = {
    # pickles that would run code
    "os.system": (holding(Calls(os.system, "true")), rf"{DANGER} \(posix.system\)"),
    "eval": (holding(Calls(eval, "1")), rf"{DANGER} \(.*builtin.*eval\)"),
    "exec": (holding(Calls(exec, "1")), rf"{DANGER} \(.*builtin.*exec\)"),
    "open": (holding(Calls(open, "/dev/null")), DANGER),
    "getattr": (holding(Calls(getattr, 1, "real")), DANGER),
    "import": (holding(Calls(builtins.__import__, "os")), DANGER),
    "subprocess": (holding(Calls(subprocess.check_output, ["true"])), rf"{DANGER} \(.*check_output\)"),
    "partial": (holding(functools.partial(os.getcwd)), DANGER),
    "a pickle alone": (plain_pickle(Calls(os.system, "true")), rf"{DANGER} \(posix.system\)"),
    "a pickle of protocol 0": (plain_pickle(Calls(os.system, "true"), 0), DANGER),
    # pickles with more than weights
    "a module": (saved(lambda state: torch.nn.Linear(2, 2)), MORE.format("torch.nn.modules.linear.Linear")),
    "a path": (holding(pathlib.PurePosixPath("x")), MORE.format("pathlib.PurePosixPath")),
    "a date": (holding(datetime.date(2026, 1, 1)), MORE.format("datetime.date")),
    "a decimal": (holding(decimal.Decimal(1)), MORE.format("decimal.Decimal")),
    "a fraction": (holding(fractions.Fraction(1, 2)), MORE.format("fractions.Fraction")),
    "a deque": (holding(collections.deque([1])), MORE.format("collections.deque")),
    "a random state": (holding(np.random.RandomState(0)), MORE.format("numpy.random")),
    "before 1.6": (older, MORE.format("uuid.UUID")),
    "before 1.6, of 128 numbers": (of_128, MORE.format("uuid.UUID")),
    # files of another kind
    "empty": (content(lambda data: b""), "is empty: copy or download it again"),
    "zeros": (content(lambda data: bytes(1000)), "is not a file of weights, or is a damaged one"),
    "half": (content(lambda data: data[: len(data) // 2]), "is cut short"),
    "almost whole": (content(lambda data: data[:-100]), "is cut short"),
    "its first bytes": (content(lambda data: data[:5]), "is cut short"),
    "its middle is other bytes": (content(lambda data: data[:200] + bytes(600) + data[800:]), "damaged"),
    "LFS": (
        content(lambda data: b"version https://git-lfs.github.com/spec/v1\noid 1\n"),
        "Git LFS pointer.*git lfs pull",
    ),
    "a web page": (content(lambda data: b"<!DOCTYPE html><html>404"), "is a web page"),
    "a web page with spaces": (content(lambda data: b"\n  <html>"), "is a web page"),
    "an error in XML": (content(lambda data: b'<?xml version="1.0"?><Error>'), "is a web page"),
    "JSON": (content(lambda data: b'{"error": "not found"}'), "is JSON, not weights"),
    "shards": (content(lambda data: json.dumps({"weight_map": {}}).encode()), "index of a checkpoint in several files"),
    "gzip": (content(lambda data: b"\x1f\x8b\x08" + data), "is compressed"),
    "HDF5": (content(lambda data: b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
    "npy": (content(lambda data: b"\x93NUMPY\x01\x00" + bytes(99)), "NumPy array"),
    "npz": (numpy_file, "NumPy arrays"),
    "text": (content(lambda data: b"see the other folder\n"), "is not a file of weights, or is a damaged one"),
    "TorchScript": (script, r"TorchScript archive: torch.save\(torch.jit.load"),
    "a zip of something": (archive("readme.txt", "w.pth"), r"torch did not write \(it has readme.txt"),
    "a tar": (legacy_tar, "is not a file of weights, or is a damaged one"),
    "a folder": (folder("a.safetensors", "b.txt"), r"is a folder: name the checkpoint in it \(a.safetensors\)"),
    "a folder of nothing": (folder(), r"is a folder: .*\(it has none\)"),
    # safetensors
    "a header cut short": (content(lambda data: struct.pack("<Q", 5000) + b'{"a"'), "damaged one.*eader"),
    "a header that is not JSON": (content(header('{"a": nonsense}')), "damaged one.*eader"),
    "a header without tensors": (
        content(header('{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}')),
        "damaged",
    ),
    "an unknown type": (
        content(header('{"a": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}}')),
        "damaged one.*eader",
    ),
    "safetensors, one too many": (lambda p, s: tensors(p, s, extra=torch.ones(1)), r"1 unexpected \(extra\)"),
    # no state dict
    "nothing": (saved(lambda state: {}), f"{NONE}it is empty"),
    "a list": (saved(lambda state: list(state.values())), f"{NONE}it is one list"),
    "a tensor": (saved(lambda state: torch.ones(2)), f"{NONE}it is one Tensor"),
    "integers for names": (saved(lambda state: dict(enumerate(state.values()))), rf"{NONE}.*it has 0 \("),
    "numbers beside": (saved(lambda state: {**state, "epoch": 3}), rf"{NONE}.*'epoch' \(int\)"),
    "arrays": (saved(lambda state: {n: v.numpy() for n, v in state.items()}), rf"{NONE}.*\(ndarray\)"),
    "two that nobody knows": (
        saved(lambda state: {"g": state, "d": state}),
        r"several state dicts \(g, d\): select one by `checkpoint_key`",
    ),
    # tensors that are not plain numbers
    "sparse": (one(lambda value: value.flatten(1).to_sparse()), rf"{FIRST} is a sparse tensor: tensor.to_dense"),
    "sparse rows": (
        one(lambda value: value.flatten(1).to_sparse_csr()),
        rf"{FIRST} is a sparse tensor: tensor.to_dense",
    ),
    "meta": (one(lambda value: value.to("meta")), rf"{FIRST} is a meta tensor: it has no values"),
    "quantized": (one(quantized), rf"{FIRST} is a quantized tensor"),
    "complex": (one(lambda value: value.to(torch.complex64)), rf"{FIRST} is a complex tensor"),
    "integers": (one(lambda value: value.long()), rf"{FIRST} .* of integers instead of"),
    "booleans": (one(lambda value: value > 0), rf"{FIRST} .* of integers instead of"),
    "not a number": (one(lambda value: value * float("nan")), rf"1 not finite \({FIRST}"),
    "too large for float32": (one(lambda value: value.double() + 1e300), rf"1 not finite \({FIRST}"),
    # another network
    "one missing": (saved(lambda state: {n: v for n, v in state.items() if n != FIRST}), rf"1 missing \({FIRST}\)"),
    "transposed": (
        one(lambda value: value.transpose(0, 1)),
        rf"{FIRST} \[3, 4, 3, 3\] instead of.*weights of another network",
    ),
    "all flat": (saved(lambda state: {n: v.flatten() for n, v in state.items()}), "of another shape or type"),
    "names of another program": (
        saved(lambda state: {n.replace(".", "/"): v for n, v in state.items()}),
        "missing.*unexpected",
    ),
    "a loss beside the network": (
        saved(lambda state: {"state_dict": {**prefixed(state, "model."), "criterion.weight": torch.ones(2)}}),
        r"its weights are under model., with 1 others beside them \(criterion.weight\)",
    ),
    "a prefix of a part": (
        saved(lambda state: {**state, **{"module." + FIRST: state[FIRST]}}),
        r"1 unexpected \(module",
    ),
}
