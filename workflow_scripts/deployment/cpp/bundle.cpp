#include "bundle.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

std::string file_bytes(std::string const& path)
{
    std::ifstream stream(path, std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(stream), {}};
    if (!stream.is_open() || stream.bad())
        throw Problem(path + ": " + std::strerror(errno ? errno : EIO));
    return bytes;
}

int Engine::fitting(int left) const
{
    auto const above = std::upper_bound(batches.begin(), batches.end(), left);
    return above == batches.begin() ? batches.front() : *(above - 1);
}

std::vector<float> Engine::run(std::vector<char> const& images, int count)
{
    std::vector<float> logits(static_cast<size_t>(count) * classes), all;
    std::vector<char> padded;
    for (int done = 0; done < count;)
    {
        int const batch = fitting(count - done), given = std::min(batch, count - done);
        char const* place = &images[image_bytes * done];
        if (given < batch)
        {
            padded.assign(place, place + image_bytes * given);
            padded.resize(image_bytes * batch);
            place = padded.data();
        }
        all.resize(static_cast<size_t>(batch) * classes);
        query(place, batch, all.data());
        std::copy_n(all.begin(), static_cast<size_t>(given) * classes, &logits[static_cast<size_t>(done) * classes]);
        done += given;
    }
    return logits;
}

Bundle::Bundle(std::string const& folder, int threads)
    : folder(folder)
    , result(parse_json(file_bytes(folder + "/result.json"), "result.json"))
    , geometry(parse_json(file_bytes(folder + "/preprocess.json"), "preprocess.json"))
{
    std::istringstream names(file_bytes(folder + "/classes.txt"));
    for (std::string name; std::getline(names, name);)
        classes.push_back(name);
    Json const& recorded = result["target_identity"];
    Json const& row = result["provenance"]["recipe"]["target"];
    auto const timed = row.object.find("threads");
    if (threads < 0)
        threads = timed == row.object.end() ? 0 : static_cast<int>(timed->second.number);
    std::string const made = "the engine was built for " + recorded["runtime"].text + " " + recorded["version"].text
        + " on " + recorded["device"].text;
    engine = load_engine(folder, threads, made);
    if (engine->classes != static_cast<int>(classes.size()))
        throw Problem("classes.txt has " + std::to_string(classes.size()) + " classes, and the engine "
            + std::to_string(engine->classes) + ": give one line for each");
    size_t const values = 3 * static_cast<size_t>(geometry.size) * geometry.size;
    if (engine->image_bytes != values * (engine->takes_pixels ? 1 : sizeof(float)))
        throw Problem("preprocess.json has another size than model.engine: unpack the bundle again");
}

std::vector<uint8_t> Bundle::pixels(std::string const& bytes, std::string const& name) const
{
    return prepare(decode(bytes, name), geometry);
}

std::vector<char> Bundle::input(std::vector<std::vector<uint8_t>> const& images) const
{
    std::vector<char> input(engine->image_bytes * images.size());
    char* place = input.data();
    for (std::vector<uint8_t> const& image : images)
    {
        if (engine->takes_pixels)
            std::copy(image.begin(), image.end(), place);
        else
            normalize(image, geometry, reinterpret_cast<float*>(place));
        place += engine->image_bytes;
    }
    return input;
}

std::vector<float> Bundle::logits(std::vector<std::vector<uint8_t>> const& images)
{
    return engine->run(input(images), static_cast<int>(images.size()));
}
