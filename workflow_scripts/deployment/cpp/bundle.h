// The files of a bundle.
#pragma once

#include "engine.h"
#include "json.h"
#include "preprocess.h"

#include <memory>
#include <string>
#include <vector>

// A file's bytes; throws Problem where it cannot be read.
std::string file_bytes(std::string const& path);

struct Bundle
{
    std::string folder;
    Json result;
    Geometry geometry;
    std::vector<std::string> classes;
    std::unique_ptr<Engine> engine;

    // threads: of the engine on the processor; negative: as it was timed.
    Bundle(std::string const& folder, int threads);

    // Prepared pixels of an image file's bytes; throws Problem, which names the image.
    std::vector<uint8_t> pixels(std::string const& bytes, std::string const& name) const;

    // Prepared images as the engine takes them.
    std::vector<char> input(std::vector<std::vector<uint8_t>> const& images) const;

    // Logits [N, classes] of prepared images.
    std::vector<float> logits(std::vector<std::vector<uint8_t>> const& images);
};
