#!/usr/bin/env bash
# Compiles a bundle's client in C++ with TensorRT's headers and the libraries of a staged folder: client.sh STAGED OUT [CPP]
set -euo pipefail
staged=$(realpath "$1") cpp=${3:-$(dirname "$0")/../../workflow_scripts/deployment/cpp}
mkdir -p "$2" && cp -r "$cpp" "$2/cpp" && rm -f "$2/cpp/engine_openvino.cpp"
tensorrt=$(dirname "$(find "${TENSORRT_SITE:-/tmp/trt/site}/tensorrt" -name 'libnvinfer.so.8' | head -1)")
static=()
if [ -d "$staged/dev" ]; then
  for name in JPEG:libjpeg PNG:libpng16 ZLIB:libz; do
    static+=("-D${name%%:*}_LIBRARY=$staged/dev/${name##*:}.a")
  done
  static+=("-DJPEG_INCLUDE_DIR=$staged/dev/include" "-DPNG_PNG_INCLUDE_DIR=$staged/dev/include" "-DZLIB_INCLUDE_DIR=$staged/dev/include")
fi
cmake -S "$2/cpp" -B "$2/build" "-DTENSORRT_INCLUDE=$staged/include" "-DTENSORRT_LIBRARY=$tensorrt/libnvinfer.so.8" "${static[@]}"
cmake --build "$2/build" && cp "$2/build/classify" "$2/classify"
