// From a decoded image to the network's input, as data/preprocess.py of the project does it with Pillow.
#pragma once

#include "images.h"

#include <string>
#include <vector>

struct Json;

// preprocess.json
struct Geometry
{
    int size;
    double crop;
    bool squash, bicubic;
    std::vector<float> mean, deviation;

    explicit Geometry(Json const& file);
};

// Resize the box (left, top, right, bottom; in pixels) of an image, antialiased: a separable convolution in fixed-point
// arithmetic, each pass rounded to 8 bits. The first pass is the horizontal one, but for images that lose many more rows
// than columns.
Image resize(Image const& image, int width, int height, bool bicubic, double const (&box)[4]);

// Return `size` x `size` pixels with 3 channels.
std::vector<uint8_t> prepare(Image const& image, Geometry const& geometry);

// Write prepared pixels as float planes: (value / 255 - mean) / deviation of each channel.
void normalize(std::vector<uint8_t> const& pixels, Geometry const& geometry, float* planes);
