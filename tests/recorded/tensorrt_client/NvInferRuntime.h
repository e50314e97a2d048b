// What the client of a bundle uses of TensorRT's interface, written down for the tests. EXTENT is the type of a size:
// int32_t up to TensorRT 9, int64_t from 10 on.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#ifndef EXTENT
#define EXTENT int32_t
#endif

namespace nvinfer1
{

struct Dims
{
    int32_t nbDims;
    EXTENT d[8];
};

enum class DataType : int32_t
{
    kFLOAT,
    kUINT8 = 5
};

enum class TensorIOMode : int32_t
{
    kNONE,
    kINPUT,
    kOUTPUT
};

enum class OptProfileSelector : int32_t
{
    kMIN,
    kOPT,
    kMAX
};

class ILogger
{
public:
    enum class Severity : int32_t
    {
        kINTERNAL_ERROR,
        kERROR,
        kWARNING
    };

    virtual void log(Severity severity, char const* text) noexcept = 0;
    virtual ~ILogger() = default;
};

class IExecutionContext
{
public:
    virtual ~IExecutionContext() noexcept = default;
    virtual bool setOptimizationProfileAsync(int32_t number, cudaStream_t stream) noexcept = 0;
    virtual bool setInputShape(char const* name, Dims const& dims) noexcept = 0;
    virtual bool setTensorAddress(char const* name, void* memory) noexcept = 0;
    virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

class ICudaEngine
{
public:
    virtual ~ICudaEngine() noexcept = default;
    virtual int32_t getNbIOTensors() const noexcept = 0;
    virtual char const* getIOTensorName(int32_t index) const noexcept = 0;
    virtual TensorIOMode getTensorIOMode(char const* name) const noexcept = 0;
    virtual DataType getTensorDataType(char const* name) const noexcept = 0;
    virtual Dims getTensorShape(char const* name) const noexcept = 0;
    virtual int32_t getNbOptimizationProfiles() const noexcept = 0;
    virtual Dims getProfileShape(char const* name, int32_t profile, OptProfileSelector which) const noexcept = 0;
    virtual IExecutionContext* createExecutionContext() noexcept = 0;
};

class IRuntime
{
public:
    virtual ~IRuntime() noexcept = default;
    virtual ICudaEngine* deserializeCudaEngine(void const* plan, std::size_t size) noexcept = 0;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

} // namespace nvinfer1
