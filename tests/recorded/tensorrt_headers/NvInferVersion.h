// The version of TensorRT that is declared here: 8, or what a compiler's -D says.
#pragma once

#ifndef NV_TENSORRT_MAJOR
#define NV_TENSORRT_MAJOR 8
#endif
