// CUDA C++ as far as plugins/levit_attention uses it, on a processor: blocks one after another, a thread for each of
// CUDA's. A warp's instructions exchange through memory between barriers; shared memory begins as NaN.
#pragma once

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __host__
#define __shared__
#define __align__(n)
#define __launch_bounds__(n)
#define __CUDA_ARCH__ 900

using std::max;
using std::min;
using cudaError_t = int;
using cudaStream_t = void*;
using half = _Float16;
constexpr cudaError_t cudaSuccess = 0;

struct dim3
{
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(4) half2 { half x, y; };
struct alignas(2) char2 { int8_t x, y; };

inline uint4 make_uint4(uint32_t a, uint32_t b, uint32_t c, uint32_t d) { return {a, b, c, d}; }
inline float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }
inline char2 make_char2(int8_t a, int8_t b) { return {a, b}; }
inline half2 __hsub2(half2 a, half2 b) { return {half(a.x - b.x), half(a.y - b.y)}; }
inline half2 __floats2half2_rn(float a, float b) { return {half(a), half(b)}; }
inline float2 __half22float2(half2 a) { return {float(a.x), float(a.y)}; }
inline half __float2half_rn(float a) { return half(a); }
inline int __float2int_rn(float a) { return static_cast<int>(std::nearbyint(a)); }
inline float __expf(float a) { return std::exp(a); }
inline float __fdividef(float a, float b) { return a / b; }
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t places)
{
    uint64_t const both = static_cast<uint64_t>(high) << 32 | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i)
    {
        result |= static_cast<uint32_t>(both >> 8 * (places >> 4 * i & 7) & 255) << 8 * i;
    }
    return result;
}
template <typename T>
T __ldg(T const* from)
{
    return *from;
}
inline void __pipeline_memcpy_async(void* to, void const* from, int bytes) { std::memcpy(to, from, bytes); }
inline void __pipeline_commit() {}
inline void __pipeline_wait_prior(int) {}

// Threads

struct Warp
{
    std::barrier<> met{32};
    float floats[32];
    uint32_t words[32][6];
    half const* rows[32];
};
inline thread_local dim3 threadIdx, blockIdx, blockDim;
inline thread_local std::barrier<>* block_met;
inline thread_local Warp* warp;
inline thread_local int lane_of;

inline void __syncthreads() { block_met->arrive_and_wait(); }
inline void __syncwarp() { warp->met.arrive_and_wait(); }
inline float __shfl_sync(unsigned, float value, int lane)
{
    warp->floats[lane_of] = value;
    __syncwarp();
    float const other = warp->floats[lane & 31];
    __syncwarp();
    return other;
}
inline float __shfl_xor_sync(unsigned mask, float value, int lanes) { return __shfl_sync(mask, value, lane_of ^ lanes); }

template <typename Kernel, typename Argument>
void on_cpu(Kernel kernel, Argument const& argument, dim3 grid, dim3 block)
{
    unsigned const count = block.x * block.y * block.z;
    for (unsigned b = 0; b < grid.x * grid.y * grid.z; ++b)
    {
        std::barrier<> met(count);
        std::deque<Warp> warps((count + 31) / 32);
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < count; ++i)
        {
            threads.emplace_back([&, i] {
                blockDim = block, block_met = &met, warp = &warps[i / 32], lane_of = i % 32;
                blockIdx = dim3(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
                threadIdx = dim3(i % block.x, i / block.x % block.y, i / block.x / block.y);
                kernel(argument);
            });
        }
        for (auto& thread : threads)
        {
            thread.join();
        }
    }
}

// The device

enum { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
inline int processors = 1; // few: blocks of many warps; many: warps that share the keys of a tile

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline void cudaGetDevice(int* device) { *device = 0; }
inline void cudaDeviceGetAttribute(int* value, int what, int)
{
    *value = what == cudaDevAttrMultiProcessorCount ? processors : 228 * 1024;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, int, int)
{
    return cudaSuccess;
}

// What ptx.h has: PTX ISA, fragments of mma.m16n8k16 and of ldmatrix

namespace levit
{
namespace
{

inline half half_of(uint32_t both, int place)
{
    half halves[2];
    std::memcpy(halves, &both, 4);
    return halves[place];
}

float exp2_fast(float x)
{
    return std::exp2(x);
}

void prefetch(void const*) {}

void mma(float (&c)[4], uint32_t const (&a)[4], uint32_t b0, uint32_t b1)
{
    uint32_t const own[6] = {a[0], a[1], a[2], a[3], b0, b1};
    std::memcpy(warp->words[lane_of], own, sizeof(own));
    __syncwarp();
    for (int i = 0; i < 4; ++i)
    {
        int const row = lane_of / 4 + i / 2 * 8, column = lane_of % 4 * 2 + i % 2;
        for (int k = 0; k < 16; ++k)
        {
            uint32_t const left = warp->words[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
            uint32_t const right = warp->words[column * 4 + k % 8 / 2][4 + k / 8];
            c[i] += static_cast<float>(half_of(left, k % 2)) * static_cast<float>(half_of(right, k % 2));
        }
    }
    __syncwarp();
}

void load(uint32_t (&r)[4], half const* row, bool transposed)
{
    warp->rows[lane_of] = row;
    __syncwarp();
    int const one = lane_of / 4, two = lane_of % 4 * 2;
    for (int i = 0; i < 4; ++i)
    {
        half const* const* const rows = warp->rows + i * 8;
        half const both[2] = {transposed ? rows[two][one] : rows[one][two], transposed ? rows[two + 1][one] : rows[one][two + 1]};
        std::memcpy(&r[i], both, 4);
    }
    __syncwarp();
}

void load_matrices(uint32_t (&r)[4], half const* row)
{
    load(r, row, false);
}

void load_transposed(uint32_t (&r)[4], half const* row)
{
    load(r, row, true);
}

} // namespace
} // namespace levit

// wmma: each lane has the whole of a fragment

namespace nvcuda
{
namespace wmma
{

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum Order { mem_row_major };

template <typename Use, int M, int N, int K, typename T, typename Layout = row_major>
struct fragment
{
    float at[16][16];
};

template <typename Use, typename T, typename Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& to, T const* from, unsigned row)
{
    if (reinterpret_cast<uintptr_t>(from) % 32 || row % 8)
    {
        std::abort(); // such an address is undefined
    }
    for (int i = 0; i < 256; ++i)
    {
        to.at[i / 16][i % 16] = std::is_same_v<Layout, col_major> ? from[i % 16 * row + i / 16] : from[i / 16 * row + i % 16];
    }
    __syncwarp();
}

template <typename Fragment>
void fill_fragment(Fragment& to, float value)
{
    std::fill_n(to.at[0], 256, value);
}

template <typename A, typename B, typename C>
void mma_sync(C& result, A const& a, B const& b, C const& c)
{
    for (int i = 0; i < 256; ++i)
    {
        float sum = c.at[i / 16][i % 16];
        for (int k = 0; k < 16; ++k)
        {
            sum += a.at[i / 16][k] * b.at[k][i % 16];
        }
        result.at[i / 16][i % 16] = sum;
    }
}

template <typename C>
void store_matrix_sync(float* to, C const& from, unsigned row, Order)
{
    if (reinterpret_cast<uintptr_t>(to) % 32 || row % 4)
    {
        std::abort();
    }
    __syncwarp();
    for (int i = lane_of; i < 256; i += 32)
    {
        to[i / 16 * row + i % 16] = from.at[i / 16][i % 16];
    }
    __syncwarp();
}

} // namespace wmma
} // namespace nvcuda
