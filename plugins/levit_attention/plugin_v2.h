// The shell for TensorRT 8: an IPluginV2DynamicExt.
#pragma once

#include "node.h"

#include <cstring>

namespace levit
{
namespace
{

// What an engine file keeps of a plugin, before its bias.
struct Header
{
    Kind kind;
    Attention attention;
};

class Plugin : public nvinfer1::IPluginV2DynamicExt
{
public:
    explicit Plugin(Node const& node) : mNode(node) {}

    // Shapes and types

    nvinfer1::DimsExprs getOutputDimensions(int32_t, nvinfer1::DimsExprs const* inputs, int32_t count,
        nvinfer1::IExprBuilder& builder) noexcept override
    {
        return mNode.result(inputs, count, builder);
    }

    DataType getOutputDataType(int32_t, DataType const* types, int32_t) const noexcept override
    {
        return mNode.result_type(types);
    }

    bool supportsFormatCombination(
        int32_t place, PluginTensorDesc const* all, int32_t inputs, int32_t) noexcept override
    {
        return mNode.takes(place, inputs, [all](int32_t at) -> PluginTensorDesc const& { return all[at]; });
    }

    void configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t) noexcept override
    {
        mNode.use(in[0].desc, out[0].desc);
    }

    // Work

    int32_t initialize() noexcept override { return mNode.use() == cudaSuccess ? 0 : 1; }

    size_t getWorkspaceSize(
        PluginTensorDesc const*, int32_t, PluginTensorDesc const*, int32_t) const noexcept override
    {
        return 0;
    }

    int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const*, void const* const* inputs,
        void* const* outputs, void*, cudaStream_t stream) noexcept override
    {
        return mNode.enqueue(in, inputs, outputs, stream);
    }

    // Copies

    IPluginV2DynamicExt* clone() const noexcept override { return new Plugin(*this); }

    size_t getSerializationSize() const noexcept override
    {
        return sizeof(Header) + sizeof(float) * mNode.bias().size();
    }

    void serialize(void* buffer) const noexcept override
    {
        Header const header{mNode.kind(), mNode.attention()};
        auto const& bias = mNode.bias();
        std::memcpy(buffer, &header, sizeof(header));
        std::memcpy(static_cast<char*>(buffer) + sizeof(header), bias.data(), sizeof(float) * bias.size());
    }

    // What it is

    char const* getPluginType() const noexcept override { return mNode.name(); }
    char const* getPluginVersion() const noexcept override { return kVersion; }
    int32_t getNbOutputs() const noexcept override { return 1; }
    void terminate() noexcept override {}
    void destroy() noexcept override { delete this; }
    void setPluginNamespace(char const* name) noexcept override { mNamespace = name; }
    char const* getPluginNamespace() const noexcept override { return mNamespace.c_str(); }

private:
    Node mNode;
    std::string mNamespace;
};

class Creator : public nvinfer1::IPluginCreator
{
public:
    void set(Kind const& kind) { mKind = kind, mName = kind.name(); }

    char const* getPluginName() const noexcept override { return mName.c_str(); }
    char const* getPluginVersion() const noexcept override { return kVersion; }
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &mFields.collection; }
    void setPluginNamespace(char const* name) noexcept override { mNamespace = name; }
    char const* getPluginNamespace() const noexcept override { return mNamespace.c_str(); }

    nvinfer1::IPluginV2* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields) noexcept override
    {
        auto const node = node_of(name, mKind, *fields);
        return node ? new Plugin(*node) : nullptr;
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
        if (!is_valid(name, header.kind, header.attention, bias))
        {
            return nullptr;
        }
        return new Plugin(Node(header.kind, header.attention, std::move(bias)));
    }

private:
    Kind mKind{};
    std::string mName;
    Fields mFields;
    std::string mNamespace;
};

} // namespace
} // namespace levit
