// The shell for TensorRT 10 and 11: an IPluginV3, of which an engine file keeps the attributes.
#pragma once

#include "node.h"

namespace levit
{
namespace
{

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime
{
public:
    explicit Plugin(Node const& node) : mNode(node) {}

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override
    {
        switch (type)
        {
        case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    IPluginV3* clone() noexcept override { return new Plugin(mNode); }

    // What it is

    char const* getPluginName() const noexcept override { return mNode.name(); }
    char const* getPluginVersion() const noexcept override { return kVersion; }
    char const* getPluginNamespace() const noexcept override { return ""; }

    // Shapes and types

    int32_t getNbOutputs() const noexcept override { return 1; }

    int32_t getOutputDataTypes(DataType* results, int32_t, DataType const* types, int32_t) const noexcept override
    {
        results[0] = mNode.result_type(types);
        return 0;
    }

    int32_t getOutputShapes(nvinfer1::DimsExprs const* inputs, int32_t count, nvinfer1::DimsExprs const*, int32_t,
        nvinfer1::DimsExprs* results, int32_t, nvinfer1::IExprBuilder& builder) noexcept override
    {
        results[0] = mNode.result(inputs, count, builder);
        return 0;
    }

    bool supportsFormatCombination(
        int32_t place, nvinfer1::DynamicPluginTensorDesc const* all, int32_t inputs, int32_t) noexcept override
    {
        return mNode.takes(place, inputs, [all](int32_t at) -> PluginTensorDesc const& { return all[at].desc; });
    }

    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t) noexcept override
    {
        return mNode.use(in[0].desc, out[0].desc) == cudaSuccess ? 0 : 1;
    }

    // Work

    int32_t onShapeChange(PluginTensorDesc const* in, int32_t, PluginTensorDesc const* out, int32_t) noexcept override
    {
        return mNode.use(in[0], out[0]) == cudaSuccess ? 0 : 1;
    }

    IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

    int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const*, void const* const* inputs,
        void* const* outputs, void*, cudaStream_t stream) noexcept override
    {
        return mNode.enqueue(in, inputs, outputs, stream);
    }

    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override
    {
        mKept.clear();
        for (auto const& size : kSizes)
        {
            mKept.emplace_back(size.name, &(mNode.attention().*size.member), PluginFieldType::kINT32, 1);
        }
        for (auto const& worth : kWorths)
        {
            mKept.emplace_back(worth.name, &(mNode.attention().scales.*worth.member), PluginFieldType::kFLOAT32, 1);
        }
        auto const& bias = mNode.bias();
        mKept.emplace_back("bias", bias.data(), PluginFieldType::kFLOAT32, static_cast<int32_t>(bias.size()));
        mCollection = {static_cast<int32_t>(mKept.size()), mKept.data()};
        return &mCollection;
    }

private:
    Node mNode;
    std::vector<PluginField> mKept;
    nvinfer1::PluginFieldCollection mCollection{};
};

class Creator : public nvinfer1::IPluginCreatorV3One
{
public:
    void set(Kind const& kind) { mKind = kind, mName = kind.name(); }

    char const* getPluginName() const noexcept override { return mName.c_str(); }
    char const* getPluginVersion() const noexcept override { return kVersion; }
    char const* getPluginNamespace() const noexcept override { return ""; }
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override { return &mFields.collection; }

    nvinfer1::IPluginV3* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields,
        nvinfer1::TensorRTPhase) noexcept override
    {
        auto const node = node_of(name, mKind, *fields);
        return node ? new Plugin(*node) : nullptr;
    }

private:
    Kind mKind{};
    std::string mName;
    Fields mFields;
};

} // namespace
} // namespace levit
