// What the kernels of attention.cu and wmma.h share: their argument, numbers in memory, activations.
#pragma once

#include "attention.h"

#include <cmath>
#include <cstdint>

#include <cuda_fp16.h>

namespace levit
{
namespace
{

constexpr int kTile = 16;   // queries of a warp, keys of a step of mma
constexpr int kChunk = 32;  // channels side by side in Order::kPacked
constexpr int kPad = 8;     // numbers between rows in shared memory, against bank conflicts
constexpr int kShared = 96 * 1024; // bytes of shared memory that a block of compute capability 7.0 or later can have

// Where a tensor's numbers are: strides of an image, of 32 channels, of a token and of a channel.
struct View
{
    int image, chunk, row, column;

    __host__ __device__ int at(int channel, int token) const
    {
        return channel / kChunk * chunk + token * row + channel % kChunk * column;
    }
};

struct Launch
{
    void const *q, *tokens, *bias;
    void* result;
    int heads, key_dim, val_dim, queries, keys;
    View q_view, kv_view, result_view;
    int q_head, kv_head, k_first; // channels of a head, and where its key begins
    float qk_scale, v_scale, codes; // codes: of a result of 1, where it is INT8
    bool to_codes;
    int query_tiles, key_tiles, groups, share; // share: tiles of keys of each warp of a tile of queries
};

template <typename T>
__device__ T const* image_of(void const* tensor, View const& view, int image)
{
    return static_cast<T const*>(tensor) + static_cast<int64_t>(image) * view.image;
}

// Two codes as halves, exactly: with their sign bit turned they are the last bits of halves from 1024 on.
__device__ uint32_t decoded(uint32_t turned, uint32_t bytes)
{
    uint32_t const both = __byte_perm(turned, 0x64646464, bytes), offset = 0x64806480; // 1024 + 128
    half2 const values = __hsub2(reinterpret_cast<half2 const&>(both), reinterpret_cast<half2 const&>(offset));
    return reinterpret_cast<uint32_t const&>(values);
}

// Two neighbouring numbers as halves.
__device__ uint32_t load_pair(half const* from)
{
    return *reinterpret_cast<uint32_t const*>(from);
}

__device__ uint32_t load_pair(int8_t const* from)
{
    return decoded(*reinterpret_cast<uint16_t const*>(from) ^ 0x8080U, 0x4140);
}

// 16 bytes of neighbouring numbers as halves.
__device__ void copy_unit(half* to, half const* from)
{
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<uint4 const*>(from);
}

__device__ void copy_unit(half* to, int8_t const* from)
{
    uint4 const codes = __ldg(reinterpret_cast<uint4 const*>(from));
    uint32_t const a = codes.x ^ 0x80808080, b = codes.y ^ 0x80808080, c = codes.z ^ 0x80808080;
    uint32_t const d = codes.w ^ 0x80808080, low = 0x4140, high = 0x4342;
    uint4* const units = reinterpret_cast<uint4*>(to);
    units[0] = make_uint4(decoded(a, low), decoded(a, high), decoded(b, low), decoded(b, high));
    units[1] = make_uint4(decoded(c, low), decoded(c, high), decoded(d, low), decoded(d, high));
}

__device__ float hardswish(float x)
{
    return x * fminf(fmaxf(x + 3.F, 0.F), 6.F) * (1.F / 6.F);
}

__device__ int8_t encoded(float x)
{
    return static_cast<int8_t>(max(-128, min(127, __float2int_rn(x))));
}

__device__ void store_pair(half* to, float x, float y, float)
{
    *reinterpret_cast<half2*>(to) = __floats2half2_rn(x, y);
}

__device__ void store_pair(int8_t* to, float x, float y, float codes)
{
    *reinterpret_cast<char2*>(to) = make_char2(encoded(x * codes), encoded(y * codes));
}

} // namespace
} // namespace levit
