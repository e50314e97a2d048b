// The engine file is an uncompressed zip of engine.json and a compiled blob of each batch size.
#include "bundle.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <sstream>
#include <thread>

#include <openvino/openvino.hpp>
#include <zlib.h>

namespace
{

[[noreturn]] void damaged()
{
    throw Problem("model.engine is not a whole engine file: unpack the bundle again");
}

uint32_t number(std::string const& bytes, size_t place, int count)
{
    if (place + count > bytes.size())
        damaged();
    uint32_t value = 0;
    for (int i = count; i-- > 0;)
        value = value << 8 | static_cast<uint8_t>(bytes[place + i]);
    return value;
}

// The members of a zip without compression, by name, each checked by its CRC.
std::map<std::string, std::string> members(std::string const& zip)
{
    size_t const end = zip.rfind("PK\5\6");
    if (end == std::string::npos)
        damaged();
    std::map<std::string, std::string> found;
    size_t place = number(zip, end + 16, 4);
    for (uint32_t left = number(zip, end + 10, 2); left > 0; --left)
    {
        uint32_t const size = number(zip, place + 20, 4), name = number(zip, place + 28, 2);
        uint32_t const header = number(zip, place + 42, 4);
        size_t const data = header + 30 + number(zip, header + 26, 2) + number(zip, header + 28, 2);
        if (number(zip, place, 4) != 0x02014b50 || number(zip, place + 10, 2) != 0 || data + size > zip.size())
            damaged();
        uint32_t const sum = crc32(0, reinterpret_cast<Bytef const*>(&zip[data]), size);
        if (sum != number(zip, place + 16, 4))
            damaged();
        found[zip.substr(place + 46, name)] = zip.substr(data, size);
        place += 46 + name + number(zip, place + 30, 2) + number(zip, place + 32, 2);
    }
    return found;
}

// Throw Problem where the runtime or the processor is not what the engine was built for.
void check(Json const& header, std::string const& made)
{
    std::string const here = ov::get_openvino_version().buildNumber, version = header["version"].text;
    if (here.compare(0, version.size(), version) != 0)
        throw Problem(made + ", and this client was compiled with OpenVINO " + here + ": install " + version);
    std::istringstream words(file_bytes("/proc/cpuinfo"));
    std::vector<std::string> const flags{std::istream_iterator<std::string>(words), {}};
    std::string missing;
    for (Json const& one : header["isa"].list)
        if (std::find(flags.begin(), flags.end(), one.text) == flags.end())
            missing += " " + one.text;
    if (!missing.empty())
        throw Problem(made + ": this processor has no" + missing + ": make a bundle on a machine like this one");
}

class OpenVinoEngine : public Engine
{
public:
    OpenVinoEngine(std::string const& folder, int threads, std::string const& made)
        : parts_(members(file_bytes(folder + "/model.engine")))
        , threads_(threads ? threads : static_cast<int>(std::max(std::thread::hardware_concurrency(), 1u)))
    {
        Json const header = parse_json(parts_["engine.json"], "engine.json");
        check(header, made);
        hint_ = header["hint"].text;
        for (float const batch : header["batches"].numbers())
            batches.push_back(static_cast<int>(batch));
        ov::Tensor const images = request(batches.back()).get_input_tensor();
        takes_pixels = images.get_element_type() == ov::element::u8;
        image_bytes = images.get_byte_size() / batches.back();
        classes = static_cast<int>(request(batches.back()).get_output_tensor().get_shape()[1]);
    }

protected:
    void query(char const* images, int batch, float* logits) override
    {
        ov::InferRequest& infer = request(batch);
        ov::Tensor input = infer.get_input_tensor();
        std::copy_n(images, image_bytes * batch, static_cast<char*>(input.data()));
        infer.infer();
        std::copy_n(infer.get_output_tensor().data<float>(), static_cast<size_t>(batch) * classes, logits);
    }

private:
    // The request of a batch size, whose blob is imported when it is first needed.
    ov::InferRequest& request(int batch)
    {
        auto const known = requests_.find(batch);
        if (known != requests_.end())
            return known->second;
        ov::AnyMap const properties{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
            ov::hint::inference_precision(hint_ == "bf16" ? ov::element::bf16 : ov::element::f32),
            ov::inference_num_threads(threads_), ov::num_streams(1)};
        std::istringstream blob(parts_["batch" + std::to_string(batch) + ".blob"]);
        return requests_[batch] = core_.import_model(blob, "CPU", properties).create_infer_request();
    }

    std::map<std::string, std::string> parts_;
    int threads_;
    std::string hint_;
    ov::Core core_;
    std::map<int, ov::InferRequest> requests_;
};

} // namespace

std::unique_ptr<Engine> load_engine(std::string const& folder, int threads, std::string const& made)
{
    try
    {
        return std::make_unique<OpenVinoEngine>(folder, threads, made);
    }
    catch (ov::Exception const& error)
    {
        throw Problem(made + ", and OpenVINO cannot load it here: " + error.what());
    }
}
