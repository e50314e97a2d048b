// What the client of a bundle uses of the CUDA runtime, written down for the tests; fake.cpp has it in ordinary memory.
#pragma once

#include <cstddef>

enum cudaError_t
{
    cudaSuccess,
    cudaErrorMemoryAllocation
};

enum cudaMemcpyKind
{
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost
};

typedef struct CUstream_st* cudaStream_t;

extern "C"
{
    char const* cudaGetErrorString(cudaError_t status);
    cudaError_t cudaMalloc(void** memory, size_t size);
    cudaError_t cudaMallocHost(void** memory, size_t size);
    cudaError_t cudaFree(void* memory);
    cudaError_t cudaFreeHost(void* memory);
    cudaError_t cudaStreamCreate(cudaStream_t* stream);
    cudaError_t cudaStreamDestroy(cudaStream_t stream);
    cudaError_t cudaStreamSynchronize(cudaStream_t stream);
    cudaError_t cudaMemcpyAsync(void* target, void const* source, size_t size, cudaMemcpyKind kind, cudaStream_t stream);
}
