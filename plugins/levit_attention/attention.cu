// What attention.h declares: which kernel computes an attention, and how its work is spread over a device.
//
// Codes of INT8 become halves on their way to shared memory; their scales are applied to scores and sums.

#include "plain.h"
#include "tensor_cores.h"
#include "wmma.h"

#include <cstring>

namespace levit
{
namespace
{

int tiles(int count)
{
    return (count + kTile - 1) / kTile;
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
