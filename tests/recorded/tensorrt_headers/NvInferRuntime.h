// What plugins/levit_attention uses of TensorRT's plugin interfaces, written down for the tests: a shell that compiles
// against this declares and overrides what TensorRT's own header has. Orders and defaults are not TensorRT's.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#include "NvInferVersion.h"

namespace nvinfer1
{

enum class DataType : int32_t
{
    kFLOAT,
    kHALF,
    kINT8,
    kINT32
};

enum class TensorFormat : int32_t
{
    kLINEAR,
    kHWC8 = 2,
    kCHW32 = 5,
    kHWC = 8
};

#if NV_TENSORRT_MAJOR >= 10
using Extent = int64_t;
#else
using Extent = int32_t;
#endif

struct Dims
{
    int32_t nbDims;
    Extent d[8];
};

struct PluginTensorDesc
{
    Dims dims;
    DataType type;
    TensorFormat format;
    float scale;
};

struct DynamicPluginTensorDesc
{
    PluginTensorDesc desc;
    Dims min, max;
};

struct IDimensionExpr
{
    Extent value;
};

struct DimsExprs
{
    int32_t nbDims;
    IDimensionExpr const* d[8];
};

struct IExprBuilder
{
    virtual IDimensionExpr const* constant(Extent value) = 0;
};

struct ILogger
{
    enum class Severity : int32_t
    {
        kINTERNAL_ERROR,
        kERROR
    };

    virtual void log(Severity severity, char const* text) noexcept = 0;
};

enum class PluginFieldType : int32_t
{
    kFLOAT16,
    kFLOAT32,
    kINT32 = 5
};

struct PluginField
{
    char const* name;
    void const* data;
    PluginFieldType type;
    int32_t length;

    PluginField(char const* name, void const* data, PluginFieldType type, int32_t length)
        : name(name), data(data), type(type), length(length)
    {
    }
};

struct PluginFieldCollection
{
    int32_t nbFields;
    PluginField const* fields;
};

#if NV_TENSORRT_MAJOR >= 10

enum class PluginCapabilityType : int32_t
{
    kCORE,
    kBUILD,
    kRUNTIME
};

enum class TensorRTPhase : int32_t
{
    kBUILD,
    kRUNTIME
};

struct IPluginResourceContext;

struct IVersionedInterface
{
    virtual ~IVersionedInterface() noexcept = default;
};

struct IPluginCapability : IVersionedInterface
{
};

struct IPluginV3 : IVersionedInterface
{
    virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept = 0;
    virtual IPluginV3* clone() noexcept = 0;
};

struct IPluginV3OneCore : IPluginCapability
{
    virtual char const* getPluginName() const noexcept = 0;
    virtual char const* getPluginVersion() const noexcept = 0;
    virtual char const* getPluginNamespace() const noexcept = 0;
};

struct IPluginV3OneBuild : IPluginCapability
{
    virtual int32_t configurePlugin(
        DynamicPluginTensorDesc const* in, int32_t inputs, DynamicPluginTensorDesc const* out, int32_t outputs) noexcept
        = 0;
    virtual int32_t getOutputDataTypes(
        DataType* results, int32_t outputs, DataType const* types, int32_t inputs) const noexcept = 0;
    virtual int32_t getOutputShapes(DimsExprs const* inputs, int32_t count, DimsExprs const* shapes, int32_t given,
        DimsExprs* results, int32_t outputs, IExprBuilder& builder) noexcept = 0;
    virtual bool supportsFormatCombination(
        int32_t place, DynamicPluginTensorDesc const* all, int32_t inputs, int32_t outputs) noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
};

struct IPluginV3OneRuntime : IPluginCapability
{
    virtual int32_t onShapeChange(
        PluginTensorDesc const* in, int32_t inputs, PluginTensorDesc const* out, int32_t outputs) noexcept = 0;
    virtual int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const* out, void const* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept = 0;
    virtual IPluginV3* attachToContext(IPluginResourceContext* context) noexcept = 0;
    virtual PluginFieldCollection const* getFieldsToSerialize() noexcept = 0;
};

struct IPluginCreatorInterface : IVersionedInterface
{
};

struct IPluginCreatorV3One : IPluginCreatorInterface
{
    virtual IPluginV3* createPlugin(
        char const* name, PluginFieldCollection const* fields, TensorRTPhase phase) noexcept = 0;
    virtual PluginFieldCollection const* getFieldNames() noexcept = 0;
    virtual char const* getPluginName() const noexcept = 0;
    virtual char const* getPluginVersion() const noexcept = 0;
    virtual char const* getPluginNamespace() const noexcept = 0;
};

using Registered = IPluginCreatorInterface;

#else

struct IPluginV2
{
    virtual char const* getPluginType() const noexcept = 0;
    virtual char const* getPluginVersion() const noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
    virtual int32_t initialize() noexcept = 0;
    virtual void terminate() noexcept = 0;
    virtual size_t getSerializationSize() const noexcept = 0;
    virtual void serialize(void* buffer) const noexcept = 0;
    virtual void destroy() noexcept = 0;
    virtual void setPluginNamespace(char const* name) noexcept = 0;
    virtual char const* getPluginNamespace() const noexcept = 0;
    virtual DataType getOutputDataType(int32_t index, DataType const* types, int32_t count) const noexcept = 0;

protected:
    virtual ~IPluginV2() = default;
};

struct IPluginV2DynamicExt : IPluginV2
{
    virtual IPluginV2DynamicExt* clone() const noexcept = 0;
    virtual DimsExprs getOutputDimensions(
        int32_t index, DimsExprs const* inputs, int32_t count, IExprBuilder& builder) noexcept = 0;
    virtual bool supportsFormatCombination(
        int32_t place, PluginTensorDesc const* all, int32_t inputs, int32_t outputs) noexcept = 0;
    virtual void configurePlugin(
        DynamicPluginTensorDesc const* in, int32_t inputs, DynamicPluginTensorDesc const* out, int32_t outputs) noexcept
        = 0;
    virtual size_t getWorkspaceSize(
        PluginTensorDesc const* in, int32_t inputs, PluginTensorDesc const* out, int32_t outputs) const noexcept = 0;
    virtual int32_t enqueue(PluginTensorDesc const* in, PluginTensorDesc const* out, void const* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept = 0;
};

struct IPluginCreator
{
    virtual char const* getPluginName() const noexcept = 0;
    virtual char const* getPluginVersion() const noexcept = 0;
    virtual PluginFieldCollection const* getFieldNames() noexcept = 0;
    virtual IPluginV2* createPlugin(char const* name, PluginFieldCollection const* fields) noexcept = 0;
    virtual IPluginV2* deserializePlugin(char const* name, void const* data, size_t size) noexcept = 0;
    virtual void setPluginNamespace(char const* name) noexcept = 0;
    virtual char const* getPluginNamespace() const noexcept = 0;
};

using Registered = IPluginCreator;

#endif

struct IPluginRegistry
{
    virtual bool registerCreator(Registered& creator, char const* name) noexcept = 0;
};

} // namespace nvinfer1

extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept;
extern "C" nvinfer1::ILogger* getLogger() noexcept;
