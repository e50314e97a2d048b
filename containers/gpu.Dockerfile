# syntax=docker/dockerfile:1
# A host with an NVIDIA GPU (x86-64): trains, quantizes, and builds and times engines of `cpu`, `ort`, `torch_cuda` and `gpu`.
# CUDA comes with the pinned packages, the driver from the host: docker run --gpus all. docs/containers.md
# Public Dockerfiles use this tag of the base; the registry was not asked.
FROM python:3.11.14-slim-bookworm

LABEL description="LeViT-TensorRT for x86-64 with an NVIDIA GPU" built="never by its authors: no container engine was at hand"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# the base decides which versions apt has
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends \
      g++ git make openssh-client rsync \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home levit && mkdir /levit && chown levit /levit
USER levit
WORKDIR /levit
COPY --chown=levit envs envs
COPY --chown=levit Makefile pyproject.toml ./
RUN make env && .venv/bin/uv cache clean
# TensorRT's own interpreter: `python: /levit/.venv-tensorrt/bin/python` in the row `gpu`
RUN .venv/bin/uv venv --python 3.10 .venv-tensorrt \
    && .venv/bin/uv pip install --python .venv-tensorrt/bin/python --compile-bytecode -r envs/gpu-trt8.txt \
    && .venv/bin/uv cache clean
COPY --chown=levit . .
ENV PATH=/levit/.venv/bin:$PATH
ENTRYPOINT ["snakemake"]
CMD ["--help"]
