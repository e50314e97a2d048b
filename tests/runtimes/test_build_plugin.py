"""The command that compiles the attention plugin: what it refuses, and what becomes of a compiler's errors.

The sources themselves are compiled by tests/graph/test_attention_plugin.py.
"""

import argparse
import os
import shutil

import pytest

import build_engine
import build_plugin
import runtimes
from conftest import ROOT
from devices import toolchain
from runtimes import _plugins

HERE = {"version": "8.5.3.1", "compute_capability": "8.7"}
MADE = {"nvcc": "11.4.315", "headers": "8.5.2.2"}
NVCC = """#!/bin/sh
while [ $# -gt 0 ]; do case "$1" in -o) shift; out="$1";; esac; args="$args $1"; shift; done
{action}
"""
VERSIONS = {
    "8.5.3.1": "#define NV_TENSORRT_MAJOR 8 //!< major\n#define NV_TENSORRT_MINOR 5\n#define NV_TENSORRT_PATCH 3\n"
    "#define NV_TENSORRT_BUILD 1\n#define NV_TENSORRT_LWS_MAJOR 0\n",
    "11.0.0.114": "".join(f"#define TRT_{n}_ENTERPRISE {v}\n" for n, v in zip(toolchain.PARTS, (11, 0, 0, 114)))
    + "".join(f"#define NV_TENSORRT_{n} TRT_{n}_ENTERPRISE //!< of it\n" for n in toolchain.PARTS),
}


@pytest.mark.parametrize(
    "here, made, wanted, reason",
    [
        ({}, {}, "auto", None),
        ({}, {"nvcc": None}, "auto", "nvcc is not here: install CUDA's compiler"),
        ({}, {"nvcc": None}, "require", "nvcc is not here"),
        ({}, {"headers": None}, "auto", "TensorRT's headers are not in /usr/include"),
        ({"version": "8.6.1"}, {}, "require", "headers are 8.5.2.2, and its library is 8.6.1: install headers of"),
        ({"version": "10.3.0"}, {"headers": "8.5.3.1"}, "auto", "headers are 8.5.3.1, and its library is 10.3.0"),
        ({"compute_capability": "6.2"}, {}, "auto", "compute capability 6.2 has no tensor cores (`plugins: require`"),
        ({"compute_capability": "6.2"}, {}, "require", None),
        ({"compute_capability": "7.2"}, {}, "auto", None),
        ({"compute_capability": "12.0"}, {}, "auto", None),
    ],
)
def test_refusals(here, made, wanted, reason):
    refused = build_plugin.refusal({**HERE, **here}, {**MADE, **made}, wanted)
    assert refused is None if reason is None else reason in refused


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder on PATH where there is no other nvcc; returns a function that installs one."""
    monkeypatch.setattr(toolchain, "FOLDERS", (str(tmp_path / "include"),))
    monkeypatch.delenv(toolchain.INCLUDE, raising=False)
    monkeypatch.delenv("NVCC", raising=False)
    monkeypatch.setattr(toolchain.glob, "glob", lambda pattern: [])
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(tmp_path), os.path.dirname(shutil.which("make")), "/usr/bin", "/bin"])
    )
    toolchain.facts.cache_clear()

    def install(action):
        (tmp_path / "nvcc").write_text(NVCC.format(action=action))
        (tmp_path / "nvcc").chmod(0o755)
        toolchain.facts.cache_clear()

    yield install
    toolchain.facts.cache_clear()


def test_a_machine_without_a_toolchain(tools):
    assert toolchain.facts() == {"nvcc": None, "headers": None}


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_of_the_toolchain(tools, tmp_path, monkeypatch, version):
    tools("echo nvcc: NVIDIA; echo Cuda compilation tools, release 11.4, V11.4.315")
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / toolchain.HEADER).write_text(VERSIONS[version])
    assert toolchain.facts() == {"nvcc": "11.4.315", "headers": version}
    toolchain.facts.cache_clear()
    monkeypatch.setenv(toolchain.INCLUDE, str(tmp_path / "elsewhere"))
    assert toolchain.facts()["headers"] is None, "a folder that is named is the only one that counts"


def test_a_compiler_that_does_not_answer_is_none(tools):
    tools("exit 3")
    assert toolchain.facts()["nvcc"] is None


def compiled(tmp_path):
    makefile, target = ROOT / "plugins/levit_attention/Makefile", tmp_path / "plugin.so"
    reason = build_plugin.compile_plugin(str(makefile), str(target), HERE, "/lib/libnvinfer.so.8")
    return reason, target


def test_the_makefile_gets_what_the_target_has(tools, tmp_path):
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / toolchain.HEADER).write_text(VERSIONS["8.5.3.1"])
    tools('echo "$args" > "$out"')
    reason, target = compiled(tmp_path)
    assert reason is None
    words = target.read_text().split()
    assert "-gencode=arch=compute_87,code=sm_87" in words and "/lib/libnvinfer.so.8" in words
    assert words[words.index("-I") + 1] == str(tmp_path / "include")


def test_a_compiler_s_error_is_the_reason(tools, tmp_path):
    tools("echo In file included from a.cu; echo nvcc fatal : Unsupported gpu architecture; exit 1")
    reason, target = compiled(tmp_path)
    assert reason == "make failed: nvcc fatal : Unsupported gpu architecture" and not target.exists()


def test_without_make(tools, tmp_path, monkeypatch):
    tools("exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiled(tmp_path)[0] == "make does not start (No such file or directory): install it"


def test_an_engine_is_of_the_fused_graph_where_there_is_a_plugin(tmp_path):
    (tmp_path / "none.so").write_bytes(b"")
    (tmp_path / "some.so").write_bytes(b"\x7fELF")

    def graph(plugin):
        return build_engine.is_fused(argparse.Namespace(plugin=plugin and str(tmp_path / plugin), fused="fused.onnx"))

    assert graph("some.so") and not graph("none.so") and not graph(None)


def test_a_runtime_is_told_of_the_plugin(tmp_path, monkeypatch):
    monkeypatch.delenv(runtimes.PLUGIN, raising=False)
    (tmp_path / "none.so").write_bytes(b"")
    (tmp_path / "some.so").write_bytes(b"\x7fELF")
    runtimes.load("tensorrt", str(tmp_path / "none.so"))
    runtimes.load("tensorrt", None)
    assert not _plugins.is_configured()
    monkeypatch.setenv(runtimes.PLUGIN, "")
    runtimes.load("tensorrt", str(tmp_path / "some.so"))
    assert os.environ[runtimes.PLUGIN] == str(tmp_path / "some.so")
