// LeViT's attention as one kernel: hardswish(softmax(q k^T + bias) v), with the scale folded into q's weights.
#pragma once

#include <cstddef>

#include <cuda_runtime_api.h>

namespace levit
{

enum class Number
{
    kFloat,
    kHalf, // sums and softmax in float
    kInt8  // codes, worth a scale each; arithmetic as in kHalf
};

enum class Order
{
    kRows,    // [B, tokens, channels] in memory
    kColumns, // [B, channels, tokens], as images in TensorRT's linear format
    kPacked   // [B, channels / 32, tokens, 32], as images in TensorRT's format CHW32
};

struct Format
{
    Number number;
    Order order;
};

// What a code of INT8 is worth; 1 for other numbers.
struct Scales
{
    float q = 1.F, k = 1.F, v = 1.F, result = 1.F;
};

// One attention. Tokens are rows of [B, keys, heads * (2 * key_dim + val_dim)], each head's query, key and value side
// by side; where queries have a tensor of their own they are rows of [B, queries, heads * key_dim], and the other has
// rows of heads * (key_dim + val_dim). The result is [B, queries, heads * val_dim].
struct Attention
{
    int heads, key_dim, val_dim, queries, keys;
    bool own_queries;
    Scales scales;
    Format in, out; // of the tokens, and of the result
};

// How an attention is computed on a device; it decides how the bias is laid out.
enum class Way
{
    kTensorCores, // mma, from compute capability 7.5 on
    kWmma,        // tensor cores of 7.0 and 7.2, whose mma has other fragments; right on later ones as well
    kPlain        // any device, numbers and order
};

// Returns why an attention is not supported, in one line, or nullptr.
char const* refusal(Attention const& attention);

Way way(Attention const& attention, int compute_capability);

// The bias [heads, queries, keys] as the kernel reads it: its size in bytes, and the values.
std::size_t bias_bytes(Attention const& attention, Way way);
void pack_bias(Attention const& attention, Way way, float const* bias, void* packed);

// Puts an attention of a batch into a stream. q: where queries have a tensor of their own, else nullptr.
cudaError_t run(Attention const& attention, Way way, int batch, void const* q, void const* tokens,
    void const* packed_bias, void* result, cudaStream_t stream);

} // namespace levit
