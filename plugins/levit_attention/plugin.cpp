// TensorRT's shell around attention.h: an IPluginV2DynamicExt, which 8.4 to 11.0 have.
//
// Plugins of one class: LevitAttention of the product qkv, LevitAttentionDownsample of the products kv and q, on tokens
// [B, tokens, channels]; with Image behind their names on images [B, channels, height, width], which in FP16 have their
// channels last: the bytes of tokens. workflow_scripts/graph/attention.py writes their nodes.

#include "attention.h"

#include <cmath>
#include <cstring>
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

// What an engine file keeps of a plugin, before its bias.
struct Header
{
    Attention attention;
    int number, image;
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

class Plugin : public nvinfer1::IPluginV2DynamicExt
{
public:
    Plugin(Attention const& attention, bool image, std::vector<float> bias)
        : mAttention(attention), mImage(image), mBias(std::move(bias)), mDevice(std::make_shared<DeviceBias>())
    {
        for (float const value : mBias)
        {
            mFitsHalf &= std::abs(value) <= kHighestHalf;
        }
    }

    Plugin(Header const& header, std::vector<float> bias) : Plugin(header.attention, header.image, std::move(bias))
    {
        mNumber = static_cast<Number>(header.number);
    }

    // Shapes and types

    nvinfer1::DimsExprs getOutputDimensions(int32_t, nvinfer1::DimsExprs const* inputs, int32_t count,
        nvinfer1::IExprBuilder& builder) noexcept override
    {
        nvinfer1::DimsExprs result(inputs[count - 1]); // the queries have the result's places
        result.d[channels_at(result.nbDims)] = builder.constant(mAttention.heads * mAttention.val_dim);
        return result;
    }

    DataType getOutputDataType(int32_t, DataType const* types, int32_t) const noexcept override { return types[0]; }

    bool supportsFormatCombination(
        int32_t place, nvinfer1::PluginTensorDesc const* all, int32_t inputs, int32_t) noexcept override
    {
        auto const &first = all[0], &asked = all[place];
        bool const half = first.type == DataType::kHALF && mFitsHalf;
        TensorFormat const wanted = mImage && half ? TensorFormat::kHWC8 : TensorFormat::kLINEAR;
        return inputs == (mAttention.own_queries ? 2 : 1) && (half || first.type == DataType::kFLOAT)
            && asked.type == first.type && asked.format == wanted;
    }

    void configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t, nvinfer1::DynamicPluginTensorDesc const*,
        int32_t) noexcept override
    {
        mNumber = in[0].desc.type == DataType::kHALF ? Number::kHalf : Number::kFloat;
        mAttention.columns = mImage && mNumber == Number::kFloat;
        upload();
    }

    // Work

    int32_t initialize() noexcept override { return upload() == cudaSuccess ? 0 : 1; }

    size_t getWorkspaceSize(nvinfer1::PluginTensorDesc const*, int32_t, nvinfer1::PluginTensorDesc const*,
        int32_t) const noexcept override
    {
        return 0;
    }

    int32_t enqueue(nvinfer1::PluginTensorDesc const* in, nvinfer1::PluginTensorDesc const*, void const* const* inputs,
        void* const* outputs, void*, cudaStream_t stream) noexcept override
    {
        if (!fits(in[0].dims, mAttention.keys, channels())
            || (mAttention.own_queries
                && !fits(in[1].dims, mAttention.queries, mAttention.heads * mAttention.key_dim)))
        {
            say_error(mName + ": the inputs are not of the sizes that its attributes say");
            return 1;
        }
        void const* const q = mAttention.own_queries ? inputs[1] : nullptr;
        cudaError_t const status = run(mAttention, mNumber, mWay, in[0].dims.d[0], q, inputs[0],
            mDevice->data[static_cast<int>(mWay)], outputs[0], stream);
        if (status != cudaSuccess)
        {
            say_error(mName + ": " + cudaGetErrorString(status));
        }
        return status == cudaSuccess ? 0 : 1;
    }

    // Copies

    IPluginV2DynamicExt* clone() const noexcept override { return new Plugin(*this); }

    size_t getSerializationSize() const noexcept override { return sizeof(Header) + sizeof(float) * mBias.size(); }

    void serialize(void* buffer) const noexcept override
    {
        Header const header{mAttention, static_cast<int>(mNumber), mImage};
        std::memcpy(buffer, &header, sizeof(header));
        std::memcpy(static_cast<char*>(buffer) + sizeof(header), mBias.data(), sizeof(float) * mBias.size());
    }

    // What it is

    char const* getPluginType() const noexcept override { return name_of(mAttention.own_queries, mImage); }
    char const* getPluginVersion() const noexcept override { return kVersion; }
    int32_t getNbOutputs() const noexcept override { return 1; }
    void terminate() noexcept override {}
    void destroy() noexcept override { delete this; }
    void setPluginNamespace(char const* name) noexcept override { mNamespace = name; }
    char const* getPluginNamespace() const noexcept override { return mNamespace.c_str(); }

private:
    int channels_at(int dimensions) const { return mImage ? 1 : dimensions - 1; }

    int channels() const
    {
        return mAttention.heads * ((mAttention.own_queries ? 1 : 2) * mAttention.key_dim + mAttention.val_dim);
    }

    bool fits(nvinfer1::Dims const& dims, int places, int channels) const
    {
        int const found = mImage ? (dims.nbDims == 4 ? dims.d[2] * dims.d[3] : 0) : (dims.nbDims == 3 ? dims.d[1] : 0);
        return found == places && dims.d[channels_at(dims.nbDims)] == channels;
    }

    cudaError_t upload() noexcept
    {
        mWay = way(mAttention, mNumber, compute_capability());
        cudaError_t const status = mDevice->fill(mAttention, mWay, mBias);
        if (status != cudaSuccess)
        {
            say_error(mName + ": no memory for its bias: " + cudaGetErrorString(status));
        }
        return status;
    }

    Attention mAttention;
    bool mImage, mFitsHalf = true;
    Number mNumber = Number::kFloat;
    Way mWay = Way::kPlain;
    std::vector<float> mBias;
    std::shared_ptr<DeviceBias> mDevice;
    std::string mName = getPluginType(), mNamespace;
};

class Creator : public nvinfer1::IPluginCreator
{
public:
    Creator(bool own_queries, bool image) : mOwnQueries(own_queries), mImage(image)
    {
        for (auto const& size : kSizes)
        {
            mFields.emplace_back(size.name, nullptr, PluginFieldType::kINT32, 1);
        }
        mFields.emplace_back("bias", nullptr, PluginFieldType::kFLOAT32, 1);
        mCollection = {static_cast<int32_t>(mFields.size()), mFields.data()};
    }

    char const* getPluginName() const noexcept override { return name_of(mOwnQueries, mImage); }
    char const* getPluginVersion() const noexcept override { return kVersion; }
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &mCollection; }
    void setPluginNamespace(char const* name) noexcept override { mNamespace = name; }
    char const* getPluginNamespace() const noexcept override { return mNamespace.c_str(); }

    nvinfer1::IPluginV2* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields) noexcept override
    {
        Attention a{};
        a.own_queries = mOwnQueries;
        std::vector<float> bias;
        for (int i = 0; i < fields->nbFields; ++i)
        {
            PluginField const& field = fields->fields[i];
            std::string const key = field.name;
            for (auto const& size : kSizes)
            {
                if (key == size.name && field.type == PluginFieldType::kINT32)
                {
                    a.*size.member = *static_cast<int const*>(field.data);
                }
            }
            if (key == "bias" && field.type == PluginFieldType::kFLOAT32)
            {
                auto const* const values = static_cast<float const*>(field.data);
                bias.assign(values, values + field.length);
            }
        }
        return checked(name, a, std::move(bias));
    }

    nvinfer1::IPluginV2* deserializePlugin(char const* name, void const* data, size_t size) noexcept override
    {
        Header header{};
        if (size < sizeof(header))
        {
            say_error(std::string(name) + ": this engine was built with another version of the plugin");
            return nullptr;
        }
        std::memcpy(&header, data, sizeof(header));
        std::vector<float> bias((size - sizeof(header)) / sizeof(float));
        std::memcpy(bias.data(), static_cast<char const*>(data) + sizeof(header), bias.size() * sizeof(float));
        if (!is_valid(name, header.attention, bias))
        {
            return nullptr;
        }
        return new Plugin(header, std::move(bias));
    }

private:
    bool is_valid(char const* name, Attention const& a, std::vector<float> const& bias) const
    {
        char const* reason = refusal(a);
        if (!reason && bias.size() != static_cast<size_t>(a.heads) * a.queries * a.keys)
        {
            reason = "its bias is not [heads, queries, keys]";
        }
        if (reason)
        {
            say_error(std::string(name) + " (" + getPluginName() + "): " + reason);
        }
        return !reason;
    }

    nvinfer1::IPluginV2* checked(char const* name, Attention const& a, std::vector<float> bias) const
    {
        return is_valid(name, a, bias) ? new Plugin(a, mImage, std::move(bias)) : nullptr;
    }

    bool mOwnQueries, mImage;
    std::vector<PluginField> mFields;
    nvinfer1::PluginFieldCollection mCollection{};
    std::string mNamespace;
};

// Loading the library is what registers its plugins.
struct Registered
{
    Creator creators[4] = {{false, false}, {true, false}, {false, true}, {true, true}};

    Registered()
    {
        for (Creator& creator : creators)
        {
            getPluginRegistry()->registerCreator(creator, "");
        }
    }
} registered;

} // namespace
} // namespace levit
