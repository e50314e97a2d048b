// The kernel for any device, numbers and order: a block for 16 queries of a head, scores in shared memory, in float.
#pragma once

#include "launch.h"

namespace levit
{
namespace
{

constexpr int kPlainThreads = 128;

// The softmax of a row in shared memory, by a warp.
__device__ void softmax(float* row, int count, int lane)
{
    float most = -INFINITY, total = 0.F;
    for (int i = lane; i < count; i += 32)
    {
        most = fmaxf(most, row[i]);
    }
    for (int step = 16; step > 0; step /= 2)
    {
        most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, step));
    }
    for (int i = lane; i < count; i += 32)
    {
        row[i] = expf(row[i] - most);
        total += row[i];
    }
    for (int step = 16; step > 0; step /= 2)
    {
        total += __shfl_xor_sync(0xffffffff, total, step);
    }
    for (int i = lane; i < count; i += 32)
    {
        row[i] /= total;
    }
}

__device__ void put(float& to, float x, float)
{
    to = x;
}

__device__ void put(half& to, float x, float)
{
    to = __float2half_rn(x);
}

__device__ void put(int8_t& to, float x, float codes)
{
    to = encoded(x * codes);
}

// Grid: (tiles of queries, heads, images). Shared memory: queries [16, key_dim], then scores [16, keys].
template <typename In, typename Out>
__global__ void __launch_bounds__(kPlainThreads) attention_plain(Launch const a)
{
    extern __shared__ float floats[];
    float *const queries = floats, *const scores = floats + kTile * a.key_dim;
    int const head = blockIdx.y, first = blockIdx.x * kTile, count = min(kTile, a.queries - first);
    In const* const q = image_of<In>(a.q, a.q_view, blockIdx.z);
    In const* const tokens = image_of<In>(a.tokens, a.kv_view, blockIdx.z);
    int const k_channel = head * a.kv_head + a.k_first, v_channel = k_channel + a.key_dim;
    float const* const bias = static_cast<float const*>(a.bias) + (head * a.queries + first) * a.keys;

    for (int i = threadIdx.x; i < kTile * a.key_dim; i += blockDim.x)
    {
        int const token = first + min(i / a.key_dim, count - 1);
        queries[i] = a.qk_scale * static_cast<float>(q[a.q_view.at(head * a.q_head + i % a.key_dim, token)]);
    }
    __syncthreads();
    for (int key = threadIdx.x; key < a.keys; key += blockDim.x)
    {
        float sums[kTile] = {};
        for (int i = 0; i < a.key_dim; ++i)
        {
            float const x = static_cast<float>(tokens[a.kv_view.at(k_channel + i, key)]);
#pragma unroll
            for (int token = 0; token < kTile; ++token)
            {
                sums[token] += queries[token * a.key_dim + i] * x;
            }
        }
        for (int token = 0; token < count; ++token)
        {
            scores[token * a.keys + key] = sums[token] + bias[token * a.keys + key];
        }
    }
    __syncthreads();
    for (int token = threadIdx.x / 32; token < count; token += blockDim.x / 32)
    {
        softmax(scores + token * a.keys, a.keys, threadIdx.x % 32);
    }
    __syncthreads();
    Out* const result = const_cast<Out*>(image_of<Out>(a.result, a.result_view, blockIdx.z));
    for (int i = threadIdx.x; i < count * a.val_dim; i += blockDim.x)
    {
        int const token = a.result_view.row == 1 ? i % count : i / a.val_dim; // neighbours in memory
        int const column = a.result_view.row == 1 ? i / count : i % a.val_dim;
        float sum = 0.F;
        for (int key = 0; key < a.keys; ++key)
        {
            sum += scores[token * a.keys + key] * static_cast<float>(tokens[a.kv_view.at(v_channel + column, key)]);
        }
        int const at = a.result_view.at(head * a.val_dim + column, first + token);
        put(result[at], hardswish(sum * a.v_scale), a.codes);
    }
}

} // namespace
} // namespace levit
