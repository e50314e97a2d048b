// The functions of plugins/levit_attention/attention.h for ctypes; sizes are {heads, key_dim, val_dim, queries, keys,
// own_queries, number in, order in, number out, order out}, scales are {q, k, v, result}.
#include "attention.h"

using namespace levit;

static Attention made(int const* s, float const* scales = nullptr)
{
    Format const in{static_cast<Number>(s[6]), static_cast<Order>(s[7])};
    Format const out{static_cast<Number>(s[8]), static_cast<Order>(s[9])};
    Scales const worth = scales ? Scales{scales[0], scales[1], scales[2], scales[3]} : Scales{};
    return {s[0], s[1], s[2], s[3], s[4], s[5] != 0, worth, in, out};
}

extern "C"
{
char const* refused(int const* sizes)
{
    return refusal(made(sizes));
}

int way_of(int const* sizes, int compute_capability)
{
    return static_cast<int>(way(made(sizes), compute_capability));
}

long bytes_of(int const* sizes, int chosen)
{
    return static_cast<long>(bias_bytes(made(sizes), static_cast<Way>(chosen)));
}

void packed(int const* sizes, int chosen, float const* bias, void* to)
{
    pack_bias(made(sizes), static_cast<Way>(chosen), bias, to);
}

int computed(int const* sizes, float const* scales, int chosen, int batch, void const* q, void const* tokens,
    void const* bias, void* result, void* stream)
{
    return run(made(sizes, scales), static_cast<Way>(chosen), batch, q, tokens, bias, result,
        static_cast<cudaStream_t>(stream));
}
}
