#include "preprocess.h"

#include "json.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace
{

constexpr int fraction = 22;        // bits of a weight behind the point: 8 bits of a pixel, and sums up to 2, remain
constexpr int64_t large = 1 << 24;  // pixels of a resized image above which only its crop is computed

double triangle(double x)
{
    return std::max(1.0 - std::fabs(x), 0.0);
}

// Keys' cubic convolution with a = -0.5.
double cubic(double x)
{
    constexpr double a = -0.5;
    x = std::fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
}

// The source pixels of one output pixel: `first`, and a weight for each from it on.
struct Window
{
    int first;
    std::vector<int> weights;
};

std::vector<Window> windows(int length, double begin, double end, int count, bool bicubic)
{
    double const scale = (end - begin) / count, stretch = std::max(scale, 1.0);
    double const reach = (bicubic ? 2.0 : 1.0) * stretch;
    std::vector<Window> all(count);
    for (int i = 0; i < count; ++i)
    {
        double const middle = begin + (i + 0.5) * scale;
        int const first = std::max(static_cast<int>(middle - reach + 0.5), 0);
        int const last = std::min(static_cast<int>(middle + reach + 0.5), length);
        std::vector<double> weights(std::max(last - first, 0));
        double sum = 0;
        for (size_t k = 0; k < weights.size(); ++k)
        {
            double const distance = (k + first - middle + 0.5) * (1.0 / stretch);
            sum += weights[k] = bicubic ? cubic(distance) : triangle(distance);
        }
        all[i].first = first;
        for (double const weight : weights)
        {
            double const share = (sum != 0.0 ? weight / sum : weight) * (1 << fraction);
            all[i].weights.push_back(static_cast<int>(share < 0 ? share - 0.5 : share + 0.5));
        }
    }
    return all;
}

uint8_t rounded(int sum)
{
    return static_cast<uint8_t>(std::min(std::max(sum >> fraction, 0), 255));
}

template <int channels>
void convolve_row(uint8_t const* source, uint8_t* target, std::vector<Window> const& all)
{
    for (Window const& window : all)
    {
        int sums[channels];
        std::fill(sums, sums + channels, 1 << (fraction - 1));
        uint8_t const* pixel = source + static_cast<size_t>(window.first) * channels;
        for (int const weight : window.weights)
            for (int c = 0; c < channels; ++c)
                sums[c] += *pixel++ * weight;
        for (int const sum : sums)
            *target++ = rounded(sum);
    }
}

// Only the rows from `top` to `bottom` are convolved; the others stay empty.
Image horizontal(Image const& image, std::vector<Window> const& all, int top, int bottom)
{
    Image result{static_cast<int>(all.size()), image.height, image.channels, {}};
    size_t const from = static_cast<size_t>(image.width) * image.channels;
    size_t const to = all.size() * image.channels;
    result.pixels.resize(to * image.height);
    auto const convolve = image.channels == 1 ? convolve_row<1> : convolve_row<3>;
    for (int y = top; y < bottom; ++y)
        convolve(&image.pixels[from * y], &result.pixels[to * y], all);
    return result;
}

Image vertical(Image const& image, std::vector<Window> const& all)
{
    Image result{image.width, static_cast<int>(all.size()), image.channels, {}};
    size_t const line = static_cast<size_t>(image.width) * image.channels;
    result.pixels.resize(line * all.size());
    std::vector<int> sums(line);
    uint8_t* target = result.pixels.data();
    for (Window const& window : all)
    {
        std::fill(sums.begin(), sums.end(), 1 << (fraction - 1));
        uint8_t const* pixel = &image.pixels[line * window.first];
        for (int const weight : window.weights)
            for (size_t x = 0; x < line; ++x)
                sums[x] += *pixel++ * weight;
        for (int const sum : sums)
            *target++ = rounded(sum);
    }
    return result;
}

// Where the middle `size` of a length begins; negative where the length is shorter.
int before(int length, int size)
{
    if (length >= size)
        return static_cast<int>(std::nearbyint((length - size) / 2.0)); // half to even
    return -((size - length) / 2);
}

// `size` x `size` pixels from (left, top) on, black outside, gray repeated.
std::vector<uint8_t> cropped(Image const& image, int left, int top, int size)
{
    std::vector<uint8_t> pixels(static_cast<size_t>(size) * size * 3);
    for (int y = std::max(-top, 0); y < size && y + top < image.height; ++y)
        for (int x = std::max(-left, 0); x < size && x + left < image.width; ++x)
        {
            size_t const place = static_cast<size_t>(y + top) * image.width + x + left;
            for (int c = 0; c < 3; ++c)
                pixels[(static_cast<size_t>(y) * size + x) * 3 + c]
                    = image.pixels[place * image.channels + (image.channels == 3 ? c : 0)];
        }
    return pixels;
}

} // namespace

Geometry::Geometry(Json const& file)
    : size(static_cast<int>(file["size"].number))
    , crop(file["crop"].number)
    , squash(file["crop_mode"].text == "squash")
    , bicubic(file["interpolation"].text == "bicubic")
    , mean(file["mean"].numbers())
    , deviation(file["std"].numbers())
{
    if (size < 1 || crop <= 0 || mean.size() != 3 || deviation.size() != 3)
        throw Problem("preprocess.json is not what the bundle had: unpack it again");
}

Image resize(Image const& image, int width, int height, bool bicubic, double const (&box)[4])
{
    auto const across = windows(image.width, box[0], box[2], width, bicubic);
    auto const down = windows(image.height, box[1], box[3], height, bicubic);
    bool const wide = width != image.width || box[0] != 0 || box[2] != image.width;
    bool const high = height != image.height || box[1] != 0 || box[3] != image.height;
    if (wide && high && image.height - height > 2 * std::max(image.width - width, 0))
        return horizontal(vertical(image, down), across, 0, height);
    int const top = high ? down.front().first : 0;
    int const bottom = high ? down.back().first + static_cast<int>(down.back().weights.size()) : image.height;
    Image const result = wide ? horizontal(image, across, top, bottom) : image;
    return high ? vertical(result, down) : result;
}

std::vector<uint8_t> prepare(Image const& image, Geometry const& geometry)
{
    int const size = geometry.size, shorter = static_cast<int>(std::floor(size / geometry.crop));
    int64_t width = shorter, height = shorter;
    if (!geometry.squash && image.width > image.height)
        width = static_cast<int64_t>(static_cast<double>(int64_t{shorter} * image.width) / image.height);
    else if (!geometry.squash)
        height = static_cast<int64_t>(static_cast<double>(int64_t{shorter} * image.height) / image.width);
    int const left = before(static_cast<int>(width), size), top = before(static_cast<int>(height), size);
    if (width * height > large && std::min(left, top) >= 0)
    {
        double const x = static_cast<double>(image.width) / width, y = static_cast<double>(image.height) / height;
        Image const middle
            = resize(image, size, size, geometry.bicubic, {left * x, top * y, (left + size) * x, (top + size) * y});
        return cropped(middle, 0, 0, size);
    }
    double const right = image.width, bottom = image.height;
    Image const whole = resize(
        image, static_cast<int>(width), static_cast<int>(height), geometry.bicubic, {0, 0, right, bottom});
    return cropped(whole, left, top, size);
}

void normalize(std::vector<uint8_t> const& pixels, Geometry const& geometry, float* planes)
{
    size_t const count = static_cast<size_t>(geometry.size) * geometry.size;
    for (int c = 0; c < 3; ++c)
    {
        float levels[256];
        for (int level = 0; level < 256; ++level)
            levels[level] = (static_cast<float>(level) / 255.0f - geometry.mean[c]) / geometry.deviation[c];
        for (size_t i = 0; i < count; ++i)
            planes[c * count + i] = levels[pixels[3 * i + c]];
    }
}
