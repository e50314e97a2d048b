// The engine file is TensorRT's own plan, of 8.5 or later, with an optimization profile for each batch size.
#include "bundle.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

namespace
{

void check(cudaError_t status, char const* what)
{
    if (status != cudaSuccess)
        throw Problem(std::string(what) + ": " + cudaGetErrorString(status));
}

// Keeps the last error, for the Problem that follows.
class Logger : public nvinfer1::ILogger
{
public:
    std::string error;

    void log(Severity severity, char const* text) noexcept override
    {
        if (severity <= Severity::kERROR)
            error = text;
    }
};

struct Memory
{
    void *device = nullptr, *host = nullptr;

    explicit Memory(size_t bytes)
    {
        check(cudaMalloc(&device, bytes), "no memory of the GPU");
        check(cudaMallocHost(&host, bytes), "no pinned memory");
    }

    Memory(Memory const&) = delete;

    ~Memory()
    {
        cudaFree(device);
        cudaFreeHost(host);
    }
};

class TensorRtEngine : public Engine
{
public:
    TensorRtEngine(std::string const& folder, std::string const& made)
    {
        load_plugin(folder + "/plugin.so");
        std::string const plan = file_bytes(folder + "/model.engine");
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        engine_.reset(runtime_ ? runtime_->deserializeCudaEngine(plan.data(), plan.size()) : nullptr);
        if (!engine_)
            throw Problem(made + ", and TensorRT cannot load it here: " + logger_.error);
        check(cudaStreamCreate(&stream_), "no CUDA stream");
        find_tensors();
        for (int profile = 0; profile < engine_->getNbOptimizationProfiles(); ++profile)
            batches.push_back(largest(profile));
        profiles_ = batches;
        std::sort(batches.begin(), batches.end());
        input_ = std::make_unique<Memory>(image_bytes * batches.back());
        output_ = std::make_unique<Memory>(sizeof(float) * classes * batches.back());
    }

    ~TensorRtEngine() override
    {
        contexts_.clear();
        if (stream_)
            cudaStreamDestroy(stream_);
    }

protected:
    int fitting(int left) const override
    {
        auto const least = std::lower_bound(batches.begin(), batches.end(), left);
        return least == batches.end() ? batches.back() : *least;
    }

    void query(char const* images, int batch, float* logits) override
    {
        nvinfer1::IExecutionContext& context = context_of(batch);
        size_t const given = image_bytes * batch, taken = sizeof(float) * classes * batch;
        std::memcpy(input_->host, images, given);
        check(cudaMemcpyAsync(input_->device, input_->host, given, cudaMemcpyHostToDevice, stream_), "a copy failed");
        if (!context.enqueueV3(stream_))
            throw Problem("a query failed: " + logger_.error);
        check(cudaMemcpyAsync(output_->host, output_->device, taken, cudaMemcpyDeviceToHost, stream_), "a copy failed");
        check(cudaStreamSynchronize(stream_), "a query failed");
        std::memcpy(logits, output_->host, taken);
    }

private:
    static void load_plugin(std::string const& path)
    {
        if (std::ifstream(path) && !dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL))
            throw Problem("plugin.so cannot be loaded (" + std::string(dlerror()) + "): it is for another machine");
    }

    void find_tensors()
    {
        for (int i = 0; i < engine_->getNbIOTensors(); ++i)
        {
            char const* name = engine_->getIOTensorName(i);
            bool const is_input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
            (is_input ? source_ : target_) = name;
        }
        shape_ = engine_->getTensorShape(source_.c_str());
        auto const logits = engine_->getTensorShape(target_.c_str());
        if (shape_.nbDims != 4 || logits.nbDims != 2)
            throw Problem("model.engine takes no images, or gives no logits: unpack the bundle again");
        takes_pixels = engine_->getTensorDataType(source_.c_str()) == nvinfer1::DataType::kUINT8;
        image_bytes = static_cast<size_t>(shape_.d[1]) * shape_.d[2] * shape_.d[3] * (takes_pixels ? 1 : sizeof(float));
        classes = static_cast<int>(logits.d[1]);
    }

    int largest(int profile) const
    {
        if (shape_.d[0] > 0)
            return static_cast<int>(shape_.d[0]);
        auto const most
            = engine_->getProfileShape(source_.c_str(), profile, nvinfer1::OptProfileSelector::kMAX);
        return static_cast<int>(most.d[0]);
    }

    // The context of a batch size's optimization profile, which is made when it is first needed.
    nvinfer1::IExecutionContext& context_of(int batch)
    {
        auto& context = contexts_[batch];
        if (context)
            return *context;
        context.reset(engine_->createExecutionContext());
        auto const place = std::find(profiles_.begin(), profiles_.end(), batch);
        auto dims = shape_;
        dims.d[0] = batch;
        bool const ready = context
            && context->setOptimizationProfileAsync(static_cast<int>(place - profiles_.begin()), stream_)
            && cudaStreamSynchronize(stream_) == cudaSuccess && context->setInputShape(source_.c_str(), dims)
            && context->setTensorAddress(source_.c_str(), input_->device)
            && context->setTensorAddress(target_.c_str(), output_->device);
        if (!ready)
            throw Problem("no room to run batch " + std::to_string(batch) + ": " + logger_.error);
        return *context;
    }

    Logger logger_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::map<int, std::unique_ptr<nvinfer1::IExecutionContext>> contexts_; // by batch size
    cudaStream_t stream_ = nullptr;
    std::string source_, target_;
    nvinfer1::Dims shape_{};
    std::vector<int> profiles_; // the batch of each
    std::unique_ptr<Memory> input_, output_;
};

} // namespace

std::unique_ptr<Engine> load_engine(std::string const& folder, int, std::string const& made)
{
    return std::make_unique<TensorRtEngine>(folder, made);
}
