// An engine in place of TensorRT's: its plan is "SIZE CLASSES BATCH...", a logit is the mean of the image's plane
// class % 3, times class + 1. Where "uint8" comes first, it takes pixels. A query fails where its context was not told profile, shape and addresses.
#include <NvInferRuntime.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <sstream>
#include <string>
#include <vector>

namespace
{

struct Plan
{
    bool pixels = false;
    int size = 0, classes = 0;
    std::vector<int> batches;
};

class Context : public nvinfer1::IExecutionContext
{
public:
    explicit Context(Plan const& plan)
        : plan_(plan)
    {
    }

    bool setOptimizationProfileAsync(int32_t number, cudaStream_t) noexcept override
    {
        profile_ = number;
        return number < static_cast<int32_t>(plan_.batches.size());
    }

    bool setInputShape(char const*, nvinfer1::Dims const& dims) noexcept override
    {
        batch_ = static_cast<int>(dims.d[0]);
        return profile_ >= 0 && batch_ == plan_.batches[profile_] && dims.nbDims == 4;
    }

    bool setTensorAddress(char const* name, void* memory) noexcept override
    {
        if (std::strcmp(name, "images"))
            logits_ = static_cast<float*>(memory);
        else
            images_ = memory;
        return true;
    }

    bool enqueueV3(cudaStream_t) noexcept override
    {
        if (!batch_ || !images_ || !logits_)
            return false;
        int const plane = plan_.size * plan_.size;
        for (int n = 0; n < batch_; ++n)
            for (int c = 0; c < plan_.classes; ++c)
            {
                double sum = 0;
                for (int i = 0; i < plane; ++i)
                    sum += plan_.pixels ? static_cast<uint8_t*>(images_)[3 * (n * plane + i) + c % 3]
                                        : static_cast<float*>(images_)[(3 * n + c % 3) * plane + i];
                logits_[n * plan_.classes + c] = static_cast<float>(sum / plane * (c + 1));
            }
        return true;
    }

private:
    Plan const& plan_;
    int profile_ = -1, batch_ = 0;
    void* images_ = nullptr;
    float* logits_ = nullptr;
};

class CudaEngine : public nvinfer1::ICudaEngine
{
public:
    explicit CudaEngine(Plan plan)
        : plan_(std::move(plan))
    {
    }

    int32_t getNbIOTensors() const noexcept override
    {
        return 2;
    }

    char const* getIOTensorName(int32_t index) const noexcept override
    {
        return index ? "logits" : "images";
    }

    nvinfer1::TensorIOMode getTensorIOMode(char const* name) const noexcept override
    {
        return std::strcmp(name, "images") ? nvinfer1::TensorIOMode::kOUTPUT : nvinfer1::TensorIOMode::kINPUT;
    }

    nvinfer1::DataType getTensorDataType(char const* name) const noexcept override
    {
        return plan_.pixels && !std::strcmp(name, "images") ? nvinfer1::DataType::kUINT8 : nvinfer1::DataType::kFLOAT;
    }

    nvinfer1::Dims getTensorShape(char const* name) const noexcept override
    {
        if (std::strcmp(name, "images"))
            return {2, {-1, plan_.classes}};
        if (plan_.pixels)
            return {4, {-1, plan_.size, plan_.size, 3}};
        return {4, {-1, 3, plan_.size, plan_.size}};
    }

    int32_t getNbOptimizationProfiles() const noexcept override
    {
        return static_cast<int32_t>(plan_.batches.size());
    }

    nvinfer1::Dims getProfileShape(char const*, int32_t profile, nvinfer1::OptProfileSelector) const noexcept override
    {
        return {4, {plan_.batches[profile], 3, plan_.size, plan_.size}};
    }

    nvinfer1::IExecutionContext* createExecutionContext() noexcept override
    {
        return new (std::nothrow) Context(plan_);
    }

private:
    Plan plan_;
};

class Runtime : public nvinfer1::IRuntime
{
public:
    explicit Runtime(nvinfer1::ILogger& logger)
        : logger_(logger)
    {
    }

    nvinfer1::ICudaEngine* deserializeCudaEngine(void const* data, std::size_t size) noexcept override
    {
        std::istringstream text(std::string(static_cast<char const*>(data), size));
        Plan plan;
        plan.pixels = text.str().compare(0, 6, "uint8 ") == 0;
        text.ignore(plan.pixels ? 6 : 0);
        text >> plan.size >> plan.classes;
        for (int batch; text >> batch;)
            plan.batches.push_back(batch);
        if (!plan.batches.empty())
            return new CudaEngine(plan);
        logger_.log(nvinfer1::ILogger::Severity::kERROR, "magicTag does not match");
        return nullptr;
    }

private:
    nvinfer1::ILogger& logger_;
};

} // namespace

nvinfer1::IRuntime* nvinfer1::createInferRuntime(ILogger& logger) noexcept
{
    return new Runtime(logger);
}

char const* cudaGetErrorString(cudaError_t)
{
    return "out of memory";
}

cudaError_t cudaMalloc(void** memory, size_t size)
{
    return (*memory = std::malloc(size)) ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaMallocHost(void** memory, size_t size)
{
    return cudaMalloc(memory, size);
}

cudaError_t cudaFree(void* memory)
{
    std::free(memory);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory)
{
    return cudaFree(memory);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream)
{
    *stream = reinterpret_cast<cudaStream_t>(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* target, void const* source, size_t size, cudaMemcpyKind, cudaStream_t)
{
    std::memcpy(target, source, size);
    return cudaSuccess;
}
