// The kernel for tensor cores of compute capability 7.0 and 7.2, which mma.m16n8k8 and ldmatrix do not reach.
//
// A warp computes 16 queries of a head. Which lane holds which number of a wmma fragment is not specified, so scores go
// through shared memory for their softmax: all of a row, then in its place as halves. Keys and values come kStaged at
// a time, for all warps of a block.
#pragma once

#include "launch.h"

#include <mma.h>

namespace levit
{
namespace
{

constexpr int kStaged = 64;     // keys or values in shared memory at a time
constexpr int kValueTiles = 8;  // of a head, at most
constexpr int kWmmaWarps = 4;   // of a block, at most

// Numbers of a row of keys or values, and of a row of scores, in shared memory.
__host__ __device__ int staged_row(int key_dim, int val_dim)
{
    return (key_dim > val_dim ? key_dim : val_dim) + kPad;
}

__host__ __device__ int score_row(int key_dim, int val_dim, int key_tiles)
{
    int const others = staged_row(key_dim, val_dim), scores = key_tiles * kTile;
    return (scores > others ? scores : others) + 4;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 700

// Copies `count` tokens from `first` on, `numbers` of each; those after token `last` are copies of it.
template <typename In>
__device__ void stage_tokens(half* to, int to_row, In const* from, View const& view, int channel, int numbers, int first,
    int count, int last, int thread, int threads)
{
    constexpr int kUnit = 16 / sizeof(In);
    int const parts = numbers / kUnit;
    for (int i = thread; i < count * parts; i += threads)
    {
        int const token = i / parts, part = i % parts * kUnit;
        copy_unit(to + token * to_row + part, from + view.at(channel + part, min(first + token, last)));
    }
}

// Adds the bias to a row of scores and turns it into exponentials over its largest, halves in place of floats; returns
// the inverse of their sum.
__device__ float exponentials_of(float* scores, float const* bias, float scale, int keys, int padded, int lane)
{
    float most = -INFINITY, total = 0.F;
    for (int i = lane; i < keys; i += 32)
    {
        scores[i] = fmaf(scores[i], scale, bias[i]);
        most = fmaxf(most, scores[i]);
    }
    for (int step = 16; step > 0; step /= 2)
    {
        most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, step));
    }
    for (int i = lane; i < padded + lane; i += 32)
    {
        float const x = i < keys ? __expf(scores[i] - most) : 0.F;
        __syncwarp(); // the halves of these take the place of the floats of earlier ones
        if (i < padded)
        {
            reinterpret_cast<half*>(scores)[i] = __float2half_rn(x);
        }
        total += x;
        __syncwarp();
    }
    for (int step = 16; step > 0; step /= 2)
    {
        total += __shfl_xor_sync(0xffffffff, total, step);
    }
    return __fdividef(1.F, total);
}

template <typename Out>
__device__ void store_tile(Launch const& a, float const* sums, int row, float inverse, int head, int first, int lane)
{
    int const pairs = a.val_dim / 2;
    Out* const to = const_cast<Out*>(image_of<Out>(a.result, a.result_view, blockIdx.z));
    for (int i = lane; i < kTile * pairs; i += 32)
    {
        int const token = i / pairs, column = i % pairs * 2;
        float const scale = a.v_scale * __shfl_sync(0xffffffff, inverse, token);
        float const x = hardswish(sums[token * row + column] * scale);
        float const y = hardswish(sums[token * row + column + 1] * scale);
        if (first + token < a.queries)
        {
            store_pair(to + a.result_view.at(head * a.val_dim + column, first + token), x, y, a.codes);
        }
    }
}

#endif

// Grid: (groups of tiles of queries, heads, images). Block: (lanes, tiles of queries).
template <typename In>
__global__ void __launch_bounds__(kWmmaWarps * 32) attention_wmma(Launch const a)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 700
    using namespace nvcuda;
    extern __shared__ __align__(128) half staged[];
    int const lane = threadIdx.x, warp = threadIdx.y, head = blockIdx.y, thread = warp * 32 + lane;
    int const threads = blockDim.y * 32, first = (blockIdx.x * blockDim.y + warp) * kTile;
    int const width = staged_row(a.key_dim, a.val_dim), row = score_row(a.key_dim, a.val_dim, a.key_tiles);
    float* const scores = reinterpret_cast<float*>(staged + kStaged * width) + warp * kTile * row;
    half* const halves = reinterpret_cast<half*>(scores);
    In const* const tokens = image_of<In>(a.tokens, a.kv_view, blockIdx.z);
    int const k_channel = head * a.kv_head + a.k_first, v_channel = k_channel + a.key_dim;

    wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, half, wmma::row_major> q[4];
    stage_tokens(halves, width, image_of<In>(a.q, a.q_view, blockIdx.z), a.q_view, head * a.q_head, a.key_dim, first,
        kTile, a.queries - 1, lane, 32);
    __syncwarp();
#pragma unroll
    for (int step = 0; step < 4; ++step)
    {
        if (step * kTile < a.key_dim)
        {
            wmma::load_matrix_sync(q[step], halves + step * kTile, width);
        }
    }
    for (int start = 0; start < a.keys; start += kStaged)
    {
        int const here = min(kStaged, a.key_tiles * kTile - start);
        __syncthreads();
        stage_tokens(staged, width, tokens, a.kv_view, k_channel, a.key_dim, start, here, a.keys - 1, thread, threads);
        __syncthreads();
        for (int key = 0; key < here; key += kTile)
        {
            wmma::fragment<wmma::accumulator, kTile, kTile, kTile, float> sums;
            wmma::fill_fragment(sums, 0.F);
#pragma unroll
            for (int step = 0; step < 4; ++step)
            {
                if (step * kTile < a.key_dim)
                {
                    wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, half, wmma::col_major> k;
                    wmma::load_matrix_sync(k, staged + key * width + step * kTile, width);
                    wmma::mma_sync(sums, q[step], k, sums);
                }
            }
            wmma::store_matrix_sync(scores + start + key, sums, row, wmma::mem_row_major);
        }
    }
    __syncwarp();
    float inverse = 0.F; // of the sum of row `lane`
    for (int i = 0; i < kTile; ++i)
    {
        int const query = head * a.queries + min(first + i, a.queries - 1);
        float const* const bias = static_cast<float const*>(a.bias) + query * a.keys;
        float const sum = exponentials_of(scores + i * row, bias, a.qk_scale, a.keys, a.key_tiles * kTile, lane);
        inverse = lane == i ? sum : inverse;
    }
    wmma::fragment<wmma::accumulator, kTile, kTile, kTile, float> sums[kValueTiles];
#pragma unroll
    for (int i = 0; i < kValueTiles; ++i)
    {
        wmma::fill_fragment(sums[i], 0.F);
    }
    for (int start = 0; start < a.keys; start += kStaged)
    {
        int const here = min(kStaged, a.key_tiles * kTile - start);
        __syncthreads();
        stage_tokens(staged, width, tokens, a.kv_view, v_channel, a.val_dim, start, here, a.keys - 1, thread, threads);
        __syncthreads();
        for (int key = 0; key < here; key += kTile)
        {
            wmma::fragment<wmma::matrix_a, kTile, kTile, kTile, half, wmma::row_major> p;
            wmma::load_matrix_sync(p, halves + start + key, 2 * row);
#pragma unroll
            for (int i = 0; i < kValueTiles; ++i)
            {
                if (i * kTile < a.val_dim)
                {
                    wmma::fragment<wmma::matrix_b, kTile, kTile, kTile, half, wmma::row_major> v;
                    wmma::load_matrix_sync(v, staged + key * width + i * kTile, width);
                    wmma::mma_sync(sums[i], p, v, sums[i]);
                }
            }
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kValueTiles; ++i)
    {
        if (i * kTile < a.val_dim)
        {
            wmma::store_matrix_sync(scores + i * kTile, sums[i], row, wmma::mem_row_major);
        }
    }
    __syncwarp();
    if (a.to_codes)
    {
        store_tile<int8_t>(a, scores, row, inverse, head, first, lane);
    }
    else
    {
        store_tile<half>(a, scores, row, inverse, head, first, lane);
    }
#endif
}

} // namespace
} // namespace levit
