// LeViT's attention as one kernel: hardswish(softmax(q k^T + bias) v), with the scale folded into q's weights.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

namespace levit
{

enum class Number
{
    kFloat,
    kHalf // sums and softmax in float
};

// One attention. Tokens are rows of [B, keys, heads * (2 * key_dim + val_dim)], each head's query, key and value side
// by side; where queries have a tensor of their own they are rows of [B, queries, heads * key_dim], and the other has
// rows of heads * (key_dim + val_dim). The result is [B, queries, heads * val_dim].
struct Attention
{
    int heads, key_dim, val_dim, queries, keys;
    bool own_queries;
    bool columns = false; // tensors are [B, channels, tokens] in memory instead, as images in TensorRT's linear format
};

// How an attention is computed on a device; it decides how the bias is laid out.
enum class Way
{
    kTensorCores, // mma, from compute capability 7.5 on, tokens as rows
    kPlain        // any device, numbers and order
};

// Returns why an attention is not supported, in one line, or nullptr.
char const* refusal(Attention const& attention);

Way way(Attention const& attention, Number number, int compute_capability);

// The bias [heads, queries, keys] as the kernel reads it: its size in bytes, and the values.
std::size_t bias_bytes(Attention const& attention, Way way);
void pack_bias(Attention const& attention, Way way, float const* bias, void* packed);

// Puts an attention of a batch into a stream. q: where queries have a tensor of their own, else nullptr.
cudaError_t run(Attention const& attention, Number number, Way way, int batch, void const* q, void const* tokens,
    void const* packed_bias, void* result, cudaStream_t stream);

} // namespace levit
