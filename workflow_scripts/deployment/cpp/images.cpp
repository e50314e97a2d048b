#include "images.h"

#include "json.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jpeglib.h>
#include <jerror.h>
#include <png.h>

namespace
{

constexpr uint64_t most_pixels = 357913940; // as Pillow: more is refused

[[noreturn]] void refuse(std::string const& name, std::string const& reason)
{
    throw Problem("image " + name + " cannot be read (" + reason + "): replace or remove it");
}

void check_size(uint64_t width, uint64_t height, std::string const& name)
{
    if (!width || !height || width * height > most_pixels)
        refuse(name, std::to_string(width) + " x " + std::to_string(height) + " pixels");
}

// JPEG. An error jumps out of libjpeg, so nothing with a destructor may be made between setjmp and it.

struct JpegErrors
{
    jpeg_error_mgr manager;
    jmp_buf out;
    char text[JMSG_LENGTH_MAX];
};

void jpeg_failed(j_common_ptr decoder)
{
    JpegErrors* errors = reinterpret_cast<JpegErrors*>(decoder->err);
    decoder->err->format_message(decoder, errors->text);
    longjmp(errors->out, 1);
}

void jpeg_message(j_common_ptr decoder, int)
{
    if (decoder->err->msg_code == JWRN_JPEG_EOF) // libjpeg would go on with gray
        jpeg_failed(decoder);
}

// Convert CMYK, which Adobe's programs store inverted, as Pillow does.
void rgb_of_cmyk(std::vector<uint8_t> const& cmyk, bool inverted, std::vector<uint8_t>& rgb)
{
    for (size_t i = 0; i < rgb.size() / 3; ++i)
    {
        uint8_t const* ink = &cmyk[4 * i];
        int const black = 255 - (inverted ? 255 - ink[3] : ink[3]);
        for (int c = 0; c < 3; ++c)
        {
            int const product = (inverted ? 255 - ink[c] : ink[c]) * black + 128;
            rgb[3 * i + c] = static_cast<uint8_t>(std::max(black - ((product + (product >> 8)) >> 8), 0));
        }
    }
}

// Decode into an image whose channels are those of the file; returns the reason of a failure, or null.
char const* read_jpeg(jpeg_decompress_struct& decoder, JpegErrors& errors, std::string const& bytes, Image& image)
{
    if (setjmp(errors.out))
        return errors.text;
    jpeg_create_decompress(&decoder);
    jpeg_mem_src(&decoder, reinterpret_cast<unsigned char const*>(bytes.data()), bytes.size());
    jpeg_read_header(&decoder, TRUE);
    image.width = static_cast<int>(decoder.image_width);
    image.height = static_cast<int>(decoder.image_height);
    image.channels = decoder.num_components;
    if (static_cast<uint64_t>(decoder.image_width) * decoder.image_height > most_pixels)
        return "it is too large";
    if (image.channels != 1 && image.channels != 3 && image.channels != 4)
        return "it has neither 1, 3 nor 4 components";
    decoder.out_color_space = image.channels == 1 ? JCS_GRAYSCALE : image.channels == 3 ? JCS_RGB : JCS_CMYK;
    jpeg_start_decompress(&decoder);
    size_t const line = static_cast<size_t>(image.width) * image.channels;
    image.pixels.resize(line * image.height);
    while (decoder.output_scanline < decoder.output_height)
    {
        JSAMPROW row = &image.pixels[line * decoder.output_scanline];
        jpeg_read_scanlines(&decoder, &row, 1);
    }
    jpeg_finish_decompress(&decoder);
    return nullptr;
}

Image decode_jpeg(std::string const& bytes, std::string const& name)
{
    Image image;
    JpegErrors errors;
    jpeg_decompress_struct decoder;
    std::memset(&decoder, 0, sizeof decoder);
    decoder.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = jpeg_failed;
    errors.manager.emit_message = jpeg_message;
    char const* reason = read_jpeg(decoder, errors, bytes, image);
    bool const inverted = decoder.saw_Adobe_marker;
    std::string const kept = reason ? reason : "";
    jpeg_destroy_decompress(&decoder);
    if (reason)
        refuse(name, kept);
    if (image.channels == 4)
    {
        std::vector<uint8_t> rgb(image.pixels.size() / 4 * 3);
        rgb_of_cmyk(image.pixels, inverted, rgb);
        image.pixels.swap(rgb);
        image.channels = 3;
    }
    return image;
}

// PNG

struct PngSource
{
    std::string const* bytes;
    size_t place;
    char text[200];
};

void png_bytes(png_structp png, png_bytep target, png_size_t count)
{
    PngSource* source = static_cast<PngSource*>(png_get_io_ptr(png));
    if (source->bytes->size() - source->place < count)
        png_error(png, "the file ends too early");
    std::memcpy(target, source->bytes->data() + source->place, count);
    source->place += count;
}

void png_failed(png_structp png, png_const_charp text)
{
    PngSource* source = static_cast<PngSource*>(png_get_error_ptr(png));
    std::snprintf(source->text, sizeof source->text, "%s", text);
    longjmp(png_jmpbuf(png), 1);
}

void png_warned(png_structp, png_const_charp) {}

// Gray of 16 bits, of which Pillow keeps values up to 255 and makes the others white.
void clip(Image& image)
{
    size_t const count = image.pixels.size() / 2;
    for (size_t i = 0; i < count; ++i)
        image.pixels[i] = image.pixels[2 * i] ? 255 : image.pixels[2 * i + 1];
    image.pixels.resize(count);
}

char const* read_png(png_structp png, png_infop info, PngSource& source, Image& image, std::vector<png_bytep>& rows)
{
    if (setjmp(png_jmpbuf(png)))
        return source.text;
    png_set_read_fn(png, &source, png_bytes);
    png_read_info(png, info);
    int const depth = png_get_bit_depth(png, info), type = png_get_color_type(png, info);
    if (static_cast<uint64_t>(png_get_image_width(png, info)) * png_get_image_height(png, info) > most_pixels)
        return "it is too large";
    if (type == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(png);
    if (type == PNG_COLOR_TYPE_GRAY && depth < 8)
        png_set_expand_gray_1_2_4_to_8(png);
    if (depth == 16 && type != PNG_COLOR_TYPE_GRAY)
        png_set_strip_16(png);
    png_set_strip_alpha(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    image.width = static_cast<int>(png_get_image_width(png, info));
    image.height = static_cast<int>(png_get_image_height(png, info));
    image.channels = png_get_channels(png, info);
    size_t const line = png_get_rowbytes(png, info);
    image.pixels.resize(line * image.height);
    rows.resize(image.height);
    for (int y = 0; y < image.height; ++y)
        rows[y] = &image.pixels[line * y];
    png_read_image(png, rows.data());
    png_read_end(png, nullptr);
    if (depth == 16 && type == PNG_COLOR_TYPE_GRAY)
        clip(image);
    return nullptr;
}

Image decode_png(std::string const& bytes, std::string const& name)
{
    Image image;
    std::vector<png_bytep> rows;
    PngSource source{&bytes, 0, {}};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, png_failed, png_warned);
    png_infop info = png ? png_create_info_struct(png) : nullptr;
    if (!info)
        refuse(name, "no memory");
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
    char const* reason = read_png(png, info, source, image, rows);
    std::string const kept = reason ? reason : "";
    png_destroy_read_struct(&png, &info, nullptr);
    if (reason)
        refuse(name, kept);
    return image;
}

} // namespace

Image decode(std::string const& bytes, std::string const& name)
{
    Image image;
    if (bytes.compare(0, 3, "\xff\xd8\xff") == 0)
        image = decode_jpeg(bytes, name);
    else if (bytes.compare(0, 8, std::string("\x89PNG\r\n\x1a\n")) == 0)
        image = decode_png(bytes, name);
    else
        refuse(name, bytes.empty() ? "it is empty" : "neither JPEG nor PNG, which this client reads");
    check_size(image.width, image.height, name);
    return image;
}
