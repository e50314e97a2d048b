// What TensorRT's shells (plugin_v2.h, plugin_v3.h) share: the attributes of a node, its bias on the device, its work.
#pragma once

#include "attention.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <NvInferRuntime.h>

namespace levit
{
namespace
{

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr char const* kVersion = "1";
constexpr float kHighestHalf = 65504.F;

struct Size
{
    char const* name;
    int Attention::*member;
};

constexpr Size kSizes[] = {{"heads", &Attention::heads}, {"key_dim", &Attention::key_dim},
    {"val_dim", &Attention::val_dim}, {"queries", &Attention::queries}, {"keys", &Attention::keys}};

struct Worth
{
    char const* name;
    float Scales::*member;
};

constexpr Worth kWorths[] = {{"q_scale", &Scales::q}, {"k_scale", &Scales::k}, {"v_scale", &Scales::v},
    {"result_scale", &Scales::result}};

// What a node's name says of it.
struct Kind
{
    bool own_queries, image, in_codes, out_codes; // codes: INT8 by the scales, else FP32 or FP16

    std::string name() const
    {
        char const* const codes = in_codes ? (out_codes ? "Int8" : "Int8In") : out_codes ? "Int8Out" : "";
        return std::string("LevitAttention") + (own_queries ? "Downsample" : "") + (image ? "Image" : "") + codes;
    }
};

constexpr int kKinds = 16;

constexpr Kind kind_of(int number)
{
    return {(number & 1) != 0, (number & 2) != 0, (number & 4) != 0, (number & 8) != 0};
}

void say_error(std::string const& text)
{
    if (nvinfer1::ILogger* const logger = getLogger())
    {
        logger->log(nvinfer1::ILogger::Severity::kERROR, text.c_str());
    }
}

// The bias on the device, as each way of computing reads it; the clones of a plugin share it.
struct DeviceBias
{
    void* data[3] = {};

    ~DeviceBias()
    {
        for (void* const way : data)
        {
            cudaFree(way);
        }
    }

    cudaError_t fill(Attention const& attention, Way way, std::vector<float> const& values)
    {
        void*& target = data[static_cast<int>(way)];
        if (target != nullptr)
        {
            return cudaSuccess;
        }
        std::vector<char> packed(bias_bytes(attention, way));
        pack_bias(attention, way, values.data(), packed.data());
        cudaError_t const status = cudaMalloc(&target, packed.size());
        if (status != cudaSuccess)
        {
            return status;
        }
        return cudaMemcpy(target, packed.data(), packed.size(), cudaMemcpyHostToDevice);
    }
};

int compute_capability()
{
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    return 10 * major + minor;
}

// A node of an engine: what it computes, and on which numbers.
class Node
{
public:
    Node(Kind const& kind, Attention const& attention, std::vector<float> bias)
        : mKind(kind), mName(kind.name()), mAttention(attention), mBias(std::move(bias)),
          mDevice(std::make_shared<DeviceBias>())
    {
        for (float const value : mBias)
        {
            mFitsHalf &= std::abs(value) <= kHighestHalf;
        }
    }

    char const* name() const { return mName.c_str(); }
    Kind const& kind() const { return mKind; }
    Attention const& attention() const { return mAttention; }
    std::vector<float> const& bias() const { return mBias; }

    // The type of its result, where types are those of its inputs by the graph.
    DataType result_type(DataType const* types) const
    {
        return mKind.out_codes ? DataType::kINT8 : mKind.in_codes ? DataType::kFLOAT : types[0];
    }

    nvinfer1::DimsExprs result(nvinfer1::DimsExprs const* inputs, int32_t count, nvinfer1::IExprBuilder& builder) const
    {
        nvinfer1::DimsExprs result(inputs[count - 1]); // the queries have the result's places
        result.d[channels_at(result.nbDims)] = builder.constant(mAttention.heads * mAttention.val_dim);
        return result;
    }

    // Whether it takes the format of a tensor, given those before it; `at` returns the description of one.
    template <typename At>
    bool takes(int32_t place, int32_t inputs, At const& at) const
    {
        bool const is_result = place == inputs;
        if (inputs != (mAttention.own_queries ? 2 : 1))
        {
            return false;
        }
        PluginTensorDesc const& asked = at(place);
        if (is_result ? mKind.out_codes : mKind.in_codes)
        {
            return asked.type == DataType::kINT8
                && asked.format == (mKind.image ? TensorFormat::kCHW32 : TensorFormat::kLINEAR);
        }
        DataType const type = mKind.in_codes ? asked.type : at(0).type; // of all that are no codes
        bool const half = type == DataType::kHALF && mFitsHalf;
        TensorFormat const wanted = mKind.image && half ? TensorFormat::kHWC8 : TensorFormat::kLINEAR;
        return (half || type == DataType::kFLOAT) && asked.type == type && asked.format == wanted;
    }

    // Sets the types of its numbers, and puts the bias on the device for them.
    cudaError_t use(PluginTensorDesc const& in, PluginTensorDesc const& out)
    {
        mAttention.in = format_of(in.type), mAttention.out = format_of(out.type);
        return use();
    }

    cudaError_t use()
    {
        mWay = way(mAttention, compute_capability());
        cudaError_t const status = mDevice->fill(mAttention, mWay, mBias);
        if (status != cudaSuccess)
        {
            say_error(mName + ": no memory for its bias: " + cudaGetErrorString(status));
        }
        return status;
    }

    // Returns 0, or 1 where it says why not.
    int32_t enqueue(PluginTensorDesc const* in, void const* const* inputs, void* const* outputs, cudaStream_t stream) const
    {
        bool const own = mAttention.own_queries;
        if (!fits(in[0].dims, mAttention.keys, channels())
            || (own && !fits(in[1].dims, mAttention.queries, mAttention.heads * mAttention.key_dim)))
        {
            say_error(mName + ": the inputs are not of the sizes that its attributes say");
            return 1;
        }
        cudaError_t const status = run(mAttention, mWay, static_cast<int>(in[0].dims.d[0]), own ? inputs[1] : nullptr,
            inputs[0], mDevice->data[static_cast<int>(mWay)], outputs[0], stream);
        if (status != cudaSuccess)
        {
            say_error(mName + ": " + cudaGetErrorString(status));
        }
        return status == cudaSuccess ? 0 : 1;
    }

private:
    int channels_at(int dimensions) const { return mKind.image ? 1 : dimensions - 1; }

    Format format_of(DataType type) const
    {
        switch (type)
        {
        case DataType::kINT8: return {Number::kInt8, mKind.image ? Order::kPacked : Order::kRows};
        case DataType::kHALF: return {Number::kHalf, Order::kRows};
        default: return {Number::kFloat, mKind.image ? Order::kColumns : Order::kRows};
        }
    }

    int channels() const
    {
        return mAttention.heads * ((mAttention.own_queries ? 1 : 2) * mAttention.key_dim + mAttention.val_dim);
    }

    bool fits(nvinfer1::Dims const& dims, int places, int channels) const
    {
        auto const found = mKind.image ? (dims.nbDims == 4 ? dims.d[2] * dims.d[3] : 0) : (dims.nbDims == 3 ? dims.d[1] : 0);
        return found == places && dims.d[channels_at(dims.nbDims)] == channels;
    }

    Kind mKind;
    std::string mName;
    Attention mAttention;
    bool mFitsHalf = true;
    Way mWay = Way::kPlain;
    std::vector<float> mBias;
    std::shared_ptr<DeviceBias> mDevice;
};

// Returns whether attributes make a node; says why not.
bool is_valid(char const* name, Kind const& kind, Attention const& attention, std::vector<float> const& bias)
{
    char const* reason = refusal(attention);
    for (auto const& worth : kWorths)
    {
        float const scale = attention.scales.*worth.member;
        reason = scale > 0.F && std::isfinite(scale) ? reason : "the scales of its codes must be positive and finite";
    }
    if (!reason && bias.size() != static_cast<size_t>(attention.heads) * attention.queries * attention.keys)
    {
        reason = "its bias is not [heads, queries, keys]";
    }
    if (reason)
    {
        say_error(std::string(name) + " (" + kind.name() + "): " + reason);
    }
    return !reason;
}

// Returns the node of a graph's or an engine's attributes, or nullptr where they make none.
std::unique_ptr<Node> node_of(char const* name, Kind const& kind, nvinfer1::PluginFieldCollection const& fields)
{
    Attention attention{};
    attention.own_queries = kind.own_queries;
    std::vector<float> bias;
    for (int i = 0; i < fields.nbFields; ++i)
    {
        PluginField const& field = fields.fields[i];
        std::string const key = field.name;
        for (auto const& size : kSizes)
        {
            if (key == size.name && field.type == PluginFieldType::kINT32)
            {
                attention.*size.member = *static_cast<int const*>(field.data);
            }
        }
        for (auto const& worth : kWorths)
        {
            if (key == worth.name && field.type == PluginFieldType::kFLOAT32)
            {
                attention.scales.*worth.member = *static_cast<float const*>(field.data);
            }
        }
        if (key == "bias" && field.type == PluginFieldType::kFLOAT32)
        {
            auto const* const values = static_cast<float const*>(field.data);
            bias.assign(values, values + field.length);
        }
    }
    bool const valid = is_valid(name, kind, attention, bias);
    return valid ? std::unique_ptr<Node>(new Node(kind, attention, std::move(bias))) : nullptr;
}

// The attributes that a creator asks a graph for.
struct Fields
{
    std::vector<PluginField> fields;
    nvinfer1::PluginFieldCollection collection{};

    Fields()
    {
        for (auto const& size : kSizes)
        {
            fields.emplace_back(size.name, nullptr, PluginFieldType::kINT32, 1);
        }
        for (auto const& worth : kWorths)
        {
            fields.emplace_back(worth.name, nullptr, PluginFieldType::kFLOAT32, 1);
        }
        fields.emplace_back("bias", nullptr, PluginFieldType::kFLOAT32, 1);
        collection = {static_cast<int32_t>(fields.size()), fields.data()};
    }
};

} // namespace
} // namespace levit
