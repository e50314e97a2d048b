// The functions of plugins/levit_attention/attention.h for ctypes; sizes are {heads, key_dim, val_dim, queries, keys,
// own_queries, columns}.
#include <cstring>

#include "attention.h"

using namespace levit;

static Attention made(int const* s)
{
    return {s[0], s[1], s[2], s[3], s[4], s[5] != 0, s[6] != 0};
}

extern "C"
{
char const* refused(int const* sizes)
{
    return refusal(made(sizes));
}

int way_of(int const* sizes, int number, int compute_capability)
{
    return static_cast<int>(way(made(sizes), static_cast<Number>(number), compute_capability));
}

long bytes_of(int const* sizes, int chosen)
{
    return static_cast<long>(bias_bytes(made(sizes), static_cast<Way>(chosen)));
}

void packed(int const* sizes, int chosen, float const* bias, void* to)
{
    pack_bias(made(sizes), static_cast<Way>(chosen), bias, to);
}

int computed(int const* sizes, int number, int chosen, int batch, void const* q, void const* tokens, void const* bias,
    void* result, void* stream)
{
    return run(made(sizes), static_cast<Number>(number), static_cast<Way>(chosen), batch, q, tokens, bias, result,
        static_cast<cudaStream_t>(stream));
}
}
