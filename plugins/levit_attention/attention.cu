// The kernels of attention.h.
//
// attention_mma: one warp, or some that share the keys, for 16 queries of a head. Keys and values of the head are in
// shared memory; scores stay in registers, where the accumulators of q k^T are the left operand of the product with v.
// The softmax is computed as the keys come, CHUNK tiles of 16 at a time.
// attention_wmma (wmma.h): the same for older tensor cores, scores in shared memory.
// attention_plain: one block for 16 queries of a head, scores in shared memory, float arithmetic.
//
// Codes of INT8 become halves on their way to shared memory; their scales are applied to scores and sums.

#include "launch.h"
#include "wmma.h"

#include <cstring>

#include <cuda_pipeline_primitives.h>

namespace levit
{
namespace
{

constexpr int kMostWarps = 8;  // of a block
constexpr int kSplits = 4;   // warps that share a tile's keys, where work is little
constexpr int kStage = 208;  // keys in shared memory at a time
constexpr int kPlainThreads = 128;
constexpr float kLog2E = 1.4426950408889634F;

int tiles(int count)
{
    return (count + kTile - 1) / kTile;
}

__device__ float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 750

// c += a b for a [16, 16], b [16, 8], in the fragments of mma.m16n8k16
__device__ void mma(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four matrices [8, 8] from shared memory, each lane giving the address of a row; as they are, or transposed.
__device__ void load_matrices(uint32_t (&r)[4], half const* row)
{
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ void load_transposed(uint32_t (&r)[4], half const* row)
{
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

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

__device__ void prefetch(void const* address)
{
    asm volatile("prefetch.global.L1 [%0];" ::"l"(address));
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

size_t plain_bytes(Attention const& a)
{
    return sizeof(float) * kTile * (a.key_dim + a.keys);
}

View view_of(Order order, int tokens, int channels)
{
    int const chunks = (channels + kChunk - 1) / kChunk;
    switch (order)
    {
    case Order::kRows: return {tokens * channels, kChunk, channels, 1};
    case Order::kColumns: return {tokens * channels, kChunk * tokens, 1, tokens};
    default: return {chunks * kChunk * tokens, kChunk * tokens, kChunk, 1};
    }
}

Launch launch_of(Attention const& a, void const* q, void const* tokens, void const* bias, void* result)
{
    int const per_head = (a.own_queries ? 1 : 2) * a.key_dim + a.val_dim;
    Launch launch{a.own_queries ? q : tokens, tokens, bias, result};
    launch.heads = a.heads, launch.key_dim = a.key_dim, launch.val_dim = a.val_dim;
    launch.queries = a.queries, launch.keys = a.keys;
    launch.q_head = a.own_queries ? a.key_dim : per_head, launch.kv_head = per_head;
    launch.k_first = a.own_queries ? 0 : a.key_dim;
    launch.q_view = view_of(a.in.order, a.queries, a.heads * launch.q_head);
    launch.kv_view = view_of(a.in.order, a.keys, a.heads * per_head);
    launch.result_view = view_of(a.out.order, a.queries, a.heads * a.val_dim);
    launch.qk_scale = a.scales.q * a.scales.k, launch.v_scale = a.scales.v;
    launch.codes = 1.F / a.scales.result, launch.to_codes = a.out.number == Number::kInt8;
    launch.query_tiles = tiles(a.queries), launch.key_tiles = tiles(a.keys);
    return launch;
}

template <typename Kernel>
cudaError_t start(Kernel kernel, Launch const& launch, dim3 grid, dim3 block, size_t bytes, cudaStream_t stream)
{
    if (bytes > 48 * 1024)
    {
        cudaError_t const status
            = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
        if (status != cudaSuccess)
        {
            return status;
        }
    }
    kernel<<<grid, block, bytes, stream>>>(launch);
    return cudaGetLastError();
}

// How a batch is spread over a device: tiles of queries of a block, warps that share a tile's keys, tiles of keys that
// a warp has in registers, and how many of a value's numbers a block computes.
struct Spread
{
    int group, splits, chunk, slice;
};

// Little work is cut fine, so that every multiprocessor has some; much of it so that keys and values are read rarely.
Spread spread_of(Attention const& a, Launch const& launch, int batch)
{
    int device = 0, processors = 1, shared = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    int64_t const warps = int64_t{batch} * a.heads * launch.query_tiles;
    if (warps * (a.val_dim / 32) < 2 * processors)
    {
        bool const one = launch.key_tiles == 1;
        return {1, one ? 1 : kSplits, launch.key_tiles > 4 ? 4 : 1, 8 * kSplits};
    }
    int const groups = (launch.query_tiles + kMostWarps - 1) / kMostWarps;
    int const chunk = launch.key_tiles == 1 ? 1 : launch.key_tiles <= 4 || warps > 8 * processors ? 4 : 7;
    bool const wide = a.val_dim % 128 == 0 && shared >= 96 * 1024;
    return {(launch.query_tiles + groups - 1) / groups, 1, chunk, wide ? 128 : a.val_dim % 64 ? 32 : 64};
}

template <typename In, int KD, int VS, int CHUNK>
cudaError_t start_mma(Attention const& a, Launch launch, Spread const& spread, int batch, cudaStream_t stream)
{
    int const slices = a.val_dim / VS, warps = spread.group * spread.splits;
    int const staged_tiles = launch.key_tiles * kTile < kStage ? launch.key_tiles : kStage / kTile;
    launch.groups = (launch.query_tiles + spread.group - 1) / spread.group;
    launch.share = (staged_tiles + spread.splits - 1) / spread.splits;
    size_t const tokens = sizeof(half) * staged_tiles * kTile * (KD + VS + 2 * kPad);
    size_t const partial = spread.splits > 1 ? sizeof(float4) * warps * (kSplits + 1) * 32 : 0;
    dim3 const grid(launch.groups * slices, a.heads, batch), block(32, spread.splits, spread.group);
    return start(attention_mma<KD, VS, CHUNK, In>, launch, grid, block, tokens > partial ? tokens : partial, stream);
}

template <typename In, int KD, int VS>
cudaError_t start_mma(Attention const& a, Launch const& launch, Spread const& spread, int batch, cudaStream_t stream)
{
    switch (spread.chunk)
    {
    case 1: return start_mma<In, KD, VS, 1>(a, launch, spread, batch, stream);
    case 4: return start_mma<In, KD, VS, 4>(a, launch, spread, batch, stream);
    default: return start_mma<In, KD, VS, 7>(a, launch, spread, batch, stream);
    }
}

template <typename In, int KD>
cudaError_t start_mma(Attention const& a, Launch const& launch, Spread const& spread, int batch, cudaStream_t stream)
{
    switch (spread.slice)
    {
    case 32: return start_mma<In, KD, 32>(a, launch, spread, batch, stream);
    case 64: return start_mma<In, KD, 64>(a, launch, spread, batch, stream);
    default: return start_mma<In, KD, 128>(a, launch, spread, batch, stream);
    }
}

template <typename In>
cudaError_t start_mma(Attention const& a, Launch const& launch, int batch, cudaStream_t stream)
{
    Spread const spread = spread_of(a, launch, batch);
    switch (a.key_dim)
    {
    case 16: return start_mma<In, 16>(a, launch, spread, batch, stream);
    case 32: return start_mma<In, 32>(a, launch, spread, batch, stream);
    default: return start_mma<In, 64>(a, launch, spread, batch, stream);
    }
}

size_t wmma_bytes(Attention const& a, int warps)
{
    size_t const staged = sizeof(half) * kStaged * staged_row(a.key_dim, a.val_dim);
    return staged + sizeof(float) * warps * kTile * score_row(a.key_dim, a.val_dim, tiles(a.keys));
}

template <typename In>
cudaError_t start_wmma(Attention const& a, Launch const& launch, int batch, cudaStream_t stream)
{
    int warps = launch.query_tiles < kWmmaWarps ? launch.query_tiles : kWmmaWarps;
    while (wmma_bytes(a, warps) > kShared)
    {
        --warps;
    }
    dim3 const grid((launch.query_tiles + warps - 1) / warps, a.heads, batch), block(32, warps);
    return start(attention_wmma<In>, launch, grid, block, wmma_bytes(a, warps), stream);
}

template <typename In>
cudaError_t start_plain(Attention const& a, Launch const& launch, int batch, cudaStream_t stream)
{
    dim3 const grid(launch.query_tiles, a.heads, batch);
    switch (a.out.number)
    {
    case Number::kFloat: return start(attention_plain<In, float>, launch, grid, kPlainThreads, plain_bytes(a), stream);
    case Number::kHalf: return start(attention_plain<In, half>, launch, grid, kPlainThreads, plain_bytes(a), stream);
    default: return start(attention_plain<In, int8_t>, launch, grid, kPlainThreads, plain_bytes(a), stream);
    }
}

// Tokens in pieces of 16 bytes, and results that are halves or codes.
bool fits_tensor_cores(Attention const& a)
{
    bool const rows = a.in.order != Order::kColumns && a.out.order != Order::kColumns;
    bool const sizes = (a.key_dim == 16 || a.key_dim == 32 || a.key_dim == 64) && a.val_dim % 32 == 0;
    return rows && sizes && a.in.number != Number::kFloat && a.out.number != Number::kFloat
        && (a.in.order == Order::kRows || a.in.number == Number::kInt8);
}

} // namespace

char const* refusal(Attention const& a)
{
    if (a.heads < 1 || a.key_dim < 1 || a.val_dim < 1 || a.queries < 1 || a.keys < 1)
    {
        return "heads, key_dim, val_dim, queries and keys must be positive";
    }
    if (!a.own_queries && a.queries != a.keys)
    {
        return "without a tensor of their own there are as many queries as keys";
    }
    return plain_bytes(a) > kShared ? "more keys than shared memory holds scores for" : nullptr;
}

Way way(Attention const& a, int compute_capability)
{
    if (!fits_tensor_cores(a) || compute_capability < 70)
    {
        return Way::kPlain;
    }
    bool const fits = a.val_dim <= kValueTiles * kTile && wmma_bytes(a, 1) <= kShared;
    return compute_capability >= 75 ? Way::kTensorCores : fits ? Way::kWmma : Way::kPlain;
}

std::size_t bias_bytes(Attention const& a, Way way)
{
    size_t const plain = sizeof(float) * a.heads * a.queries * a.keys;
    size_t const packed = sizeof(half) * a.heads * tiles(a.queries) * tiles(a.keys) * kTile * kTile;
    return way == Way::kTensorCores ? packed : plain;
}

// In the order of mma's accumulators: for each head, tile of queries, tile of keys and lane, the lane's eight numbers.
void pack_bias(Attention const& a, Way way, float const* bias, void* packed)
{
    if (way != Way::kTensorCores)
    {
        std::memcpy(packed, bias, bias_bytes(a, way));
        return;
    }
    half* to = static_cast<half*>(packed);
    int const query_tiles = tiles(a.queries), key_tiles = tiles(a.keys), each = kTile * kTile;
    for (int i = 0; i < a.heads * query_tiles * key_tiles * each; ++i)
    {
        int const slot = i % 8, lane = i / 8 % 32, key_tile = i / each % key_tiles;
        int const query_tile = i / each / key_tiles % query_tiles, head = i / each / key_tiles / query_tiles;
        int const query = query_tile * kTile + lane / 4 + slot / 2 % 2 * 8;
        int const key = key_tile * kTile + slot / 4 * 8 + lane % 4 * 2 + slot % 2;
        size_t const from = (static_cast<size_t>(head) * a.queries + query) * a.keys + key;
        float const value = key >= a.keys ? -INFINITY : query >= a.queries ? 0.F : bias[from];
        to[i] = __float2half_rn(value);
    }
}

cudaError_t run(Attention const& a, Way way, int batch, void const* q, void const* tokens, void const* packed_bias,
    void* result, cudaStream_t stream)
{
    Launch const launch = launch_of(a, q, tokens, packed_bias, result);
    bool const codes = a.in.number == Number::kInt8;
    switch (way)
    {
    case Way::kTensorCores:
        return codes ? start_mma<int8_t>(a, launch, batch, stream) : start_mma<half>(a, launch, batch, stream);
    case Way::kWmma:
        return codes ? start_wmma<int8_t>(a, launch, batch, stream) : start_wmma<half>(a, launch, batch, stream);
    default: break;
    }
    switch (a.in.number)
    {
    case Number::kFloat: return start_plain<float>(a, launch, batch, stream);
    case Number::kHalf: return start_plain<half>(a, launch, batch, stream);
    default: return start_plain<int8_t>(a, launch, batch, stream);
    }
}

} // namespace levit
