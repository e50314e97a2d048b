// Decoded images.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

// Pixels by rows, `channels` bytes each: 1 of a gray image, else 3.
struct Image
{
    int width = 0, height = 0, channels = 0;
    std::vector<uint8_t> pixels;
};

// Decode a JPEG or PNG as Pillow does: an EXIF orientation is not applied, alpha and colour profiles are not either.
// Throws Problem, which names the image, where the bytes are no whole image of these formats.
Image decode(std::string const& bytes, std::string const& name);
