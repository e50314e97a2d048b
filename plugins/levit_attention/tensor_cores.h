// The kernel for tensor cores of compute capability 7.5 and later.
//
// One warp, or some that share the keys, for 16 queries of a head. Keys and values of the head are in shared memory;
// scores stay in registers, where the accumulators of q k^T are the left operand of the product with v. The softmax is
// computed as the keys come, CHUNK tiles of 16 at a time.
#pragma once

#include "launch.h"
#include "ptx.h"

#include <cuda_pipeline_primitives.h>

namespace levit
{
namespace
{

constexpr int kMostWarps = 8;  // of a block
constexpr int kSplits = 4;   // warps that share a tile's keys, where work is little
constexpr int kStage = 208;  // keys in shared memory at a time
constexpr float kLog2E = 1.4426950408889634F;

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 750

__device__ uint32_t pack(float low, float high)
{
    half2 const both = __floats2half2_rn(low, high);
    return reinterpret_cast<uint32_t const&>(both);
}

__device__ float2 unpack(uint32_t both)
{
    return __half22float2(reinterpret_cast<half2 const&>(both));
}

// The queries of a warp as mma's left operand; those beyond the last are copies of the last.
template <int KD, typename In>
__device__ void load_queries(
    uint32_t (&q)[KD / kTile][4], In const* from, View const& view, int channel, int first, int count, int lane)
{
    int const upper = min(first + lane / 4, count - 1), lower = min(first + lane / 4 + 8, count - 1);
#pragma unroll
    for (int step = 0; step < KD / kTile; ++step)
    {
#pragma unroll
        for (int part = 0; part < 4; ++part)
        {
            int const token = part % 2 ? lower : upper, column = step * kTile + part / 2 * 8 + lane % 4 * 2;
            q[step][part] = load_pair(from + view.at(channel + column, token));
        }
    }
}

__device__ void start_copy(half* to, half const* from)
{
    __pipeline_memcpy_async(to, from, 16);
}

__device__ void start_copy(half* to, int8_t const* from)
{
    copy_unit(to, from);
}

// Starts to copy D numbers of tokens to shared memory; those up to a whole tile are copies of the last.
template <int D, typename In>
__device__ void stage(half* to, In const* from, View const& view, int channel, int count, int thread, int threads)
{
    constexpr int kUnit = 16 / sizeof(In), kParts = D / kUnit;
    int const whole = (count + kTile - 1) / kTile * kTile, part = thread % kParts * kUnit;
    In const* const first = from + view.at(channel + part, 0);
#pragma unroll 2
    for (int token = thread / kParts; token < whole; token += threads / kParts)
    {
        start_copy(to + token * (D + kPad) + part, first + min(token, count - 1) * view.row);
    }
}

// Reduces over the four lanes that share a row of an accumulator.
__device__ float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffff, x, 2));
}

__device__ float row_sum(float x)
{
    x += __shfl_xor_sync(0xffffffff, x, 1);
    return x + __shfl_xor_sync(0xffffffff, x, 2);
}

// scores = q k^T + bias of 16 queries and CHUNK tiles of keys, of which `count` are there (scores of others are -inf).
// SCALED: products of codes, which are worth `scale` each.
template <int KD, int CHUNK, bool SCALED>
__device__ void compute_scores(float (&scores)[2 * CHUNK][4], uint32_t const (&q)[KD / kTile][4], half const* k_tile,
    uint4 const* bias, float scale, int count, int lane)
{
    half const* const row = k_tile + (lane / 16 * 8 + lane % 8) * (KD + kPad) + lane / 8 % 2 * 8;
#pragma unroll
    for (int i = 0; i < CHUNK; ++i)
    {
        float(&left)[4] = scores[2 * i], (&right)[4] = scores[2 * i + 1];
        if (i >= count)
        {
            left[0] = left[1] = left[2] = left[3] = right[0] = right[1] = right[2] = right[3] = -INFINITY;
            continue;
        }
        uint4 const packed = __ldg(bias + i * 32);
        float2 const a = unpack(packed.x), b = unpack(packed.y), c = unpack(packed.z), d = unpack(packed.w);
        float const begin[8] = {a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y};
#pragma unroll
        for (int j = 0; j < 4; ++j)
        {
            left[j] = SCALED ? 0.F : begin[j], right[j] = SCALED ? 0.F : begin[j + 4];
        }
#pragma unroll
        for (int step = 0; step < KD / kTile; ++step)
        {
            uint32_t k[4];
            load_matrices(k, row + i * kTile * (KD + kPad) + step * kTile);
            mma(left, q[step], k[0], k[1]);
            mma(right, q[step], k[2], k[3]);
        }
#pragma unroll
        for (int j = 0; SCALED && j < 4; ++j)
        {
            left[j] = fmaf(left[j], scale, begin[j]), right[j] = fmaf(right[j], scale, begin[j + 4]);
        }
    }
}

// What a warp has summed: products with values, the largest score and the sum of exponentials of a lane's two rows.
template <int VS>
struct Sums
{
    float values[VS / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {};
};

// Turns scores into exponentials over the largest so far, and scales what was summed over a smaller one.
template <int CHUNK, int VS>
__device__ void exponentials(float (&scores)[2 * CHUNK][4], Sums<VS>& sums)
{
#pragma unroll
    for (int side = 0; side < 2; ++side)
    {
        float top = sums.most[side];
#pragma unroll
        for (int i = 0; i < 2 * CHUNK; ++i)
        {
            top = fmaxf(top, fmaxf(scores[i][2 * side], scores[i][2 * side + 1]));
        }
        top = row_max(top);
        float const scale = exp2_fast((sums.most[side] - top) * kLog2E), offset = top * kLog2E;
        sums.most[side] = top;
        sums.total[side] *= scale;
#pragma unroll
        for (int i = 0; i < VS / 8; ++i)
        {
            sums.values[i][2 * side] *= scale, sums.values[i][2 * side + 1] *= scale;
        }
#pragma unroll
        for (int i = 0; i < 2 * CHUNK; ++i)
        {
            float &x = scores[i][2 * side], &y = scores[i][2 * side + 1];
            x = exp2_fast(fmaf(x, kLog2E, -offset)), y = exp2_fast(fmaf(y, kLog2E, -offset));
            sums.total[side] += x + y;
        }
    }
}

template <int CHUNK, int VS>
__device__ void add_values(
    Sums<VS>& sums, float const (&scores)[2 * CHUNK][4], half const* v_tile, int count, int lane)
{
    half const* const row = v_tile + lane % 16 * (VS + kPad) + lane / 16 * 8;
#pragma unroll
    for (int i = 0; i < CHUNK; ++i)
    {
        if (i >= count)
        {
            continue;
        }
        float const(&left)[4] = scores[2 * i], (&right)[4] = scores[2 * i + 1];
        uint32_t const p[4]
            = {pack(left[0], left[1]), pack(left[2], left[3]), pack(right[0], right[1]), pack(right[2], right[3])};
#pragma unroll
        for (int step = 0; step < VS / kTile; ++step)
        {
            uint32_t v[4];
            load_transposed(v, row + i * kTile * (VS + kPad) + step * kTile);
            mma(sums.values[2 * step], p, v[0], v[1]);
            mma(sums.values[2 * step + 1], p, v[2], v[3]);
        }
    }
}

// Writes columns, eight at a time, of a lane's two rows; rows: how many there are from the first on.
template <int COUNT, typename Out>
__device__ void store_rows(
    Out* to, Launch const& a, int rows, float const (&values)[COUNT][4], float const (&total)[2])
{
#pragma unroll
    for (int side = 0; side < 2; ++side)
    {
        if (8 * side < rows)
        {
            float const scale = __fdividef(a.v_scale, total[side]);
#pragma unroll
            for (int i = 0; i < COUNT; ++i)
            {
                float const x = values[i][2 * side] * scale, y = values[i][2 * side + 1] * scale;
                Out* const place = to + 8 * side * a.result_view.row + i / 4 * a.result_view.chunk + i % 4 * 8;
                store_pair(place, hardswish(x), hardswish(y), a.codes);
            }
        }
    }
}

// Writes from `channel` of token `token` on, which is row `lane / 4` of a tile.
template <int COUNT>
__device__ void store(Launch const& a, int image, int channel, int token, float const (&values)[COUNT][4],
    float const (&total)[2])
{
    View const& view = a.result_view;
    int64_t const at = static_cast<int64_t>(image) * view.image + view.at(channel, token) + threadIdx.x % 4 * 2;
    if (a.to_codes)
    {
        store_rows(static_cast<int8_t*>(a.result) + at, a, a.queries - token, values, total);
    }
    else
    {
        store_rows(static_cast<half*>(a.result) + at, a, a.queries - token, values, total);
    }
}

// Adds what the kSplits warps of a tile summed over different keys, through shared memory; each writes eight columns.
__device__ void combine(
    Launch const& a, Sums<8 * kSplits> const& sums, float4* shared, int image, int channel, int token, int split)
{
    constexpr int kEach = (kSplits + 1) * 32;
    float4* const tile = shared + threadIdx.z * kSplits * kEach + threadIdx.x;
    float4* const own = tile + split * kEach;
    own[0] = make_float4(sums.most[0], sums.most[1], row_sum(sums.total[0]), row_sum(sums.total[1]));
#pragma unroll
    for (int i = 0; i < kSplits; ++i)
    {
        float const(&v)[4] = sums.values[i];
        own[(i + 1) * 32] = make_float4(v[0], v[1], v[2], v[3]);
    }
    __syncthreads();
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {}, values[1][4] = {};
#pragma unroll
    for (int s = 0; s < kSplits; ++s)
    {
        float4 const other = tile[s * kEach];
        most[0] = fmaxf(most[0], other.x), most[1] = fmaxf(most[1], other.y);
    }
#pragma unroll
    for (int s = 0; s < kSplits; ++s)
    {
        float4 const other = tile[s * kEach], v = tile[s * kEach + (split + 1) * 32];
        float const upper = exp2_fast((other.x - most[0]) * kLog2E), lower = exp2_fast((other.y - most[1]) * kLog2E);
        total[0] += other.z * upper, total[1] += other.w * lower;
        values[0][0] += v.x * upper, values[0][1] += v.y * upper;
        values[0][2] += v.z * lower, values[0][3] += v.w * lower;
    }
    store(a, image, channel + split * 8, token, values, total);
}

#endif // compute capability 7.5

// Grid: (groups of tiles of queries for each slice of VS of a value's numbers, heads, images).
// Block: (lanes, warps that share the keys of a tile, tiles of queries).
template <int KD, int VS, int CHUNK, typename In>
__global__ void __launch_bounds__(kMostWarps * 32) attention_mma(Launch const a)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750
    extern __shared__ __align__(16) half shared[];
    int const staged = min(kStage, a.key_tiles * kTile);
    half *const k_tile = shared, *const v_tile = shared + staged * (KD + kPad);
    int const lane = threadIdx.x, split = threadIdx.y, head = blockIdx.y, image = blockIdx.z;
    int group = blockIdx.x, slice = 0;
    for (; group >= a.groups; group -= a.groups)
    {
        ++slice;
    }
    int const tile = group * blockDim.z + threadIdx.z, first = tile * kTile, kept = min(tile, a.query_tiles - 1);
    In const* const tokens = image_of<In>(a.tokens, a.kv_view, image);
    In const* const q = image_of<In>(a.q, a.q_view, image);
    int const k_channel = head * a.kv_head + a.k_first, v_channel = k_channel + KD + slice * VS;
    int const bias_tile = (head * a.query_tiles + kept) * a.key_tiles;
    uint4 const* const bias = static_cast<uint4 const*>(a.bias) + bias_tile * 32 + lane;
    int const thread = (threadIdx.z * blockDim.y + split) * 32 + lane, threads = blockDim.z * blockDim.y * 32;

    uint32_t queries[KD / kTile][4];
    Sums<VS> sums;
    for (int start = 0; start < a.keys; start += kStage)
    {
        int const count = min(kStage, a.keys - start), whole = (count + kTile - 1) / kTile;
        int const begin = split * a.share, end = min(begin + a.share, whole);
        uint4 const* const from = bias + start / kTile * 32;
        if (start > 0)
        {
            __syncthreads();
        }
        In const* const here = tokens + start * a.kv_view.row;
        stage<KD>(k_tile, here, a.kv_view, k_channel, count, thread, threads);
        stage<VS>(v_tile, here, a.kv_view, v_channel, count, thread, threads);
        __pipeline_commit();
        if (start == 0)
        {
            load_queries<KD>(queries, q, a.q_view, head * a.q_head, first, a.queries, lane);
        }
#pragma unroll 1
        for (int i = begin; i < end; ++i)
        {
            prefetch(from + i * 32);
        }
        __pipeline_wait_prior(0);
        __syncthreads();
#pragma unroll 1
        for (int i = begin; i < end; i += CHUNK)
        {
            float scores[2 * CHUNK][4];
            half const* const k = k_tile + i * kTile * (KD + kPad);
            compute_scores<KD, CHUNK, sizeof(In) == 1>(scores, queries, k, from + i * 32, a.qk_scale, end - i, lane);
            exponentials<CHUNK>(scores, sums);
            add_values<CHUNK>(sums, scores, v_tile + i * kTile * (VS + kPad), end - i, lane);
        }
    }
    int const channel = head * a.val_dim + slice * VS, token = first + lane / 4;
    if constexpr (VS == 8 * kSplits)
    {
        if (blockDim.y > 1)
        {
            __syncthreads(); // the last warp has read its keys and values
            combine(a, sums, reinterpret_cast<float4*>(shared), image, channel, token, split);
            return;
        }
    }
    float const total[2] = {row_sum(sums.total[0]), row_sum(sums.total[1])};
    store(a, image, channel, token, sums.values, total);
#endif
}

} // namespace
} // namespace levit
