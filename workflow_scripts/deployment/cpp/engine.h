// A loaded engine; engine_openvino.cpp or engine_tensorrt.cpp implements it.
#pragma once

#include <memory>
#include <string>
#include <vector>

class Engine
{
public:
    virtual ~Engine() = default;

    int classes = 0;
    std::vector<int> batches; // that it was built for, ascending
    bool takes_pixels = false; // uint8 [count, size, size, 3] in place of float [count, 3, size, size]
    size_t image_bytes = 0; // of an image as it takes it

    // Logits [count, classes] of images as the engine takes them, for any count. Throws Problem where a query fails.
    std::vector<float> run(std::vector<char> const& images, int count);

protected:
    // The batch size of the next query where so many images are left: the largest that they fill, else the smallest.
    virtual int fitting(int left) const;

    // Write the logits of one query; `batch` is one of `batches`.
    virtual void query(char const* images, int batch, float* logits) = 0;
};

// Load the engine of the bundle in a folder. threads: on the processor, 0 for all cores. Throws Problem where it is
// damaged, or of another runtime or machine; `made` says of which it is.
std::unique_ptr<Engine> load_engine(std::string const& folder, int threads, std::string const& made);
