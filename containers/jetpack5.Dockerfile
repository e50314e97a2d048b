# syntax=docker/dockerfile:1
# A Jetson with JetPack 5.1 (Xavier, Orin): builds, scores and times engines, with `site: device`. TensorRT and CUDA are the
# base image's, the driver is the board's: docker run --runtime nvidia. docs/containers.md
# BASE: NVIDIA's l4t-jetpack:r35.4.1, with the address that its catalog (NGC) gives. Public Dockerfiles use this tag; the
# catalog was not asked. Not verified: that the image's apt sources have python3-libnvinfer, of its own TensorRT.
ARG BASE
FROM ${BASE}

LABEL description="LeViT-TensorRT for JetPack 5" built="never by its authors: no Jetson was at hand"
# the base decides which versions apt has
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends \
      g++ python3-dev python3-libnvinfer python3-venv rsync \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --groups video levit && mkdir /levit && chown levit /levit
USER levit
WORKDIR /levit
COPY --chown=levit envs envs
RUN python3 -m venv --system-site-packages .venv \
    && .venv/bin/python -m pip install --no-cache-dir -r envs/jetson-jp5.txt
COPY --chown=levit . .
ENV PATH=/levit/.venv/bin:$PATH SNAKEMAKE_PROFILE=profiles/device
ENTRYPOINT ["snakemake"]
CMD ["--help"]
