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
    void* data[2] = {};

    ~DeviceBias()
    {
        cudaFree(data[0]);
        cudaFree(data[1]);
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

char const* name_of(bool own_queries, bool image)
{
    return own_queries ? (image ? "LevitAttentionDownsampleImage" : "LevitAttentionDownsample")
                       : (image ? "LevitAttentionImage" : "LevitAttention");
}

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
    Node(Attention const& attention, bool image, std::vector<float> bias, Number number = Number::kFloat)
        : mAttention(attention), mImage(image), mNumber(number), mBias(std::move(bias)),
          mDevice(std::make_shared<DeviceBias>())
    {
        for (float const value : mBias)
        {
            mFitsHalf &= std::abs(value) <= kHighestHalf;
        }
    }

    char const* name() const { return name_of(mAttention.own_queries, mImage); }
    Attention const& attention() const { return mAttention; }
    std::vector<float> const& bias() const { return mBias; }
    bool image() const { return mImage; }
    Number number() const { return mNumber; }

    nvinfer1::DimsExprs result(nvinfer1::DimsExprs const* inputs, int32_t count, nvinfer1::IExprBuilder& builder) const
    {
        nvinfer1::DimsExprs result(inputs[count - 1]); // the queries have the result's places
        result.d[channels_at(result.nbDims)] = builder.constant(mAttention.heads * mAttention.val_dim);
        return result;
    }

    bool takes(PluginTensorDesc const& first, PluginTensorDesc const& asked, int32_t inputs) const
    {
        bool const half = first.type == DataType::kHALF && mFitsHalf;
        TensorFormat const wanted = mImage && half ? TensorFormat::kHWC8 : TensorFormat::kLINEAR;
        return inputs == (mAttention.own_queries ? 2 : 1) && (half || first.type == DataType::kFLOAT)
            && asked.type == first.type && asked.format == wanted;
    }

    // Sets the type of its numbers, and puts the bias on the device for it.
    cudaError_t use(Number number)
    {
        mNumber = number;
        mAttention.columns = mImage && mNumber == Number::kFloat;
        mWay = way(mAttention, mNumber, compute_capability());
        cudaError_t const status = mDevice->fill(mAttention, mWay, mBias);
        if (status != cudaSuccess)
        {
            say_error(std::string(name()) + ": no memory for its bias: " + cudaGetErrorString(status));
        }
        return status;
    }

    cudaError_t use(PluginTensorDesc const& first)
    {
        return use(first.type == DataType::kHALF ? Number::kHalf : Number::kFloat);
    }

    // Returns 0, or 1 where it says why not.
    int32_t enqueue(PluginTensorDesc const* in, void const* const* inputs, void* const* outputs, cudaStream_t stream) const
    {
        bool const own = mAttention.own_queries;
        if (!fits(in[0].dims, mAttention.keys, channels())
            || (own && !fits(in[1].dims, mAttention.queries, mAttention.heads * mAttention.key_dim)))
        {
            say_error(std::string(name()) + ": the inputs are not of the sizes that its attributes say");
            return 1;
        }
        cudaError_t const status = run(mAttention, mNumber, mWay, static_cast<int>(in[0].dims.d[0]),
            own ? inputs[1] : nullptr, inputs[0], mDevice->data[static_cast<int>(mWay)], outputs[0], stream);
        if (status != cudaSuccess)
        {
            say_error(std::string(name()) + ": " + cudaGetErrorString(status));
        }
        return status == cudaSuccess ? 0 : 1;
    }

private:
    int channels_at(int dimensions) const { return mImage ? 1 : dimensions - 1; }

    int channels() const
    {
        return mAttention.heads * ((mAttention.own_queries ? 1 : 2) * mAttention.key_dim + mAttention.val_dim);
    }

    bool fits(nvinfer1::Dims const& dims, int places, int channels) const
    {
        auto const found = mImage ? (dims.nbDims == 4 ? dims.d[2] * dims.d[3] : 0) : (dims.nbDims == 3 ? dims.d[1] : 0);
        return found == places && dims.d[channels_at(dims.nbDims)] == channels;
    }

    Attention mAttention;
    bool mImage, mFitsHalf = true;
    Number mNumber;
    Way mWay = Way::kPlain;
    std::vector<float> mBias;
    std::shared_ptr<DeviceBias> mDevice;
};

// Returns whether attributes make a node; says why not.
bool is_valid(char const* name, char const* kind, Attention const& attention, std::vector<float> const& bias)
{
    char const* reason = refusal(attention);
    if (!reason && bias.size() != static_cast<size_t>(attention.heads) * attention.queries * attention.keys)
    {
        reason = "its bias is not [heads, queries, keys]";
    }
    if (reason)
    {
        say_error(std::string(name) + " (" + kind + "): " + reason);
    }
    return !reason;
}

// Returns the node of a graph's or an engine's attributes, or nullptr where they make none.
std::unique_ptr<Node> node_of(
    char const* name, bool own_queries, bool image, nvinfer1::PluginFieldCollection const& fields)
{
    Attention attention{};
    attention.own_queries = own_queries;
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
        if (key == "bias" && field.type == PluginFieldType::kFLOAT32)
        {
            auto const* const values = static_cast<float const*>(field.data);
            bias.assign(values, values + field.length);
        }
    }
    bool const valid = is_valid(name, name_of(own_queries, image), attention, bias);
    return valid ? std::unique_ptr<Node>(new Node(attention, image, std::move(bias))) : nullptr;
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
        fields.emplace_back("bias", nullptr, PluginFieldType::kFLOAT32, 1);
        collection = {static_cast<int32_t>(fields.size()), fields.data()};
    }
};

} // namespace
} // namespace levit
