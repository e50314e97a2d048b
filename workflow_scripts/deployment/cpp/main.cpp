// Classify images with a bundle's engine: `classify FOLDER IMAGE...`, where FOLDER is the unpacked bundle.
#include "bundle.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <iostream>
#include <iterator>
#include <numeric>

namespace files = std::filesystem;

namespace
{

char const usage[] = R"(usage: classify FOLDER IMAGE... [--top N] [--json] [--logits] [--batch N] [--threads N]
       classify FOLDER selftest
       classify FOLDER --benchmark [IMAGE...] [--seconds S]

FOLDER is the unpacked bundle; an IMAGE is a JPEG or PNG file, a folder of them, or - for standard input.
)";

struct Options
{
    std::string folder;
    std::vector<std::string> images;
    int top = 5, batch = 0, threads = -1;
    double seconds = 3;
    bool json = false, logits = false, benchmark = false;
};

// An image file's bytes, or why there are none.
struct Source
{
    std::string name, bytes, problem;
};

// A prepared image, or why there is none.
struct Prepared
{
    std::vector<uint8_t> pixels;
    std::string problem;
};

double positive(std::string const& flag, char const* text)
{
    char* end = nullptr;
    double const value = text ? std::strtod(text, &end) : 0;
    if (!text || *end || value < 0 || (value == 0 && flag != "--threads"))
        throw Problem(flag + " takes a positive number");
    return value;
}

int whole(std::string const& flag, char const* text)
{
    double const value = positive(flag, text);
    if (value != std::floor(value) || value > 1e6)
        throw Problem(flag + " takes a whole number up to a million");
    return static_cast<int>(value);
}

Options options_of(char** words)
{
    Options options;
    std::vector<std::string> names;
    for (; *words; ++words)
    {
        std::string const word = *words;
        if (word == "--json")
            options.json = true;
        else if (word == "--logits")
            options.json = options.logits = true;
        else if (word == "--benchmark")
            options.benchmark = true;
        else if (word == "--top" || word == "--batch" || word == "--threads")
        {
            int& value = word == "--top" ? options.top : word == "--batch" ? options.batch : options.threads;
            value = whole(word, *++words);
        }
        else if (word == "--seconds")
            options.seconds = positive(word, *++words);
        else if (word == "--help" || (word.size() > 1 && word[0] == '-'))
        {
            std::cout << usage;
            std::exit(word == "--help" ? 0 : 2);
        }
        else
            names.push_back(word);
    }
    if (names.empty() || (names.size() == 1 && !options.benchmark))
    {
        std::cerr << usage;
        std::exit(2);
    }
    options.folder = names.front();
    options.images.assign(names.begin() + 1, names.end());
    return options;
}

bool is_image(files::path const& path)
{
    std::string suffix = path.extension().string();
    std::transform(suffix.begin(), suffix.end(), suffix.begin(), ::tolower);
    return suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png";
}

// The names of all images that a command line names, those of a folder sorted.
std::vector<std::string> names_of(std::vector<std::string> const& given)
{
    std::vector<std::string> names;
    for (std::string const& name : given)
    {
        if (!files::is_directory(name))
        {
            names.push_back(name);
            continue;
        }
        size_t const before = names.size();
        for (auto const& entry : files::recursive_directory_iterator(name))
            if (entry.is_regular_file() && is_image(entry.path()))
                names.push_back(entry.path().string());
        std::sort(names.begin() + static_cast<std::ptrdiff_t>(before), names.end());
        if (names.size() == before)
            throw Problem(name + " has no images (.jpg, .jpeg, .png)");
    }
    return names;
}

Source read(std::string const& name)
{
    try
    {
        if (name == "-")
            return {"stdin", {std::istreambuf_iterator<char>(std::cin), {}}, {}};
        return {name, file_bytes(name), {}};
    }
    catch (Problem const& problem)
    {
        return {name, {}, problem.what()};
    }
}

Prepared prepared(Bundle const& bundle, Source const& source)
{
    try
    {
        if (!source.problem.empty())
            return {{}, source.problem};
        return {bundle.pixels(source.bytes, source.name), {}};
    }
    catch (Problem const& problem)
    {
        return {{}, problem.what()};
    }
}

using Pending = std::vector<std::future<Prepared>>;

// Start to decode the images from `first` on, each in a thread of its own.
Pending start(Bundle const& bundle, std::function<Source(size_t)> const& source, size_t first, size_t count)
{
    Pending pending;
    for (size_t i = first; i < first + count; ++i)
        pending.push_back(
            std::async(std::launch::async, [&bundle, &source, i] { return prepared(bundle, source(i)); }));
    return pending;
}

// Call done(number, logits or null, problem) for each of `count` images until it returns false; the next batch is
// decoded while the engine runs.
void classify(Bundle& bundle, std::function<Source(size_t)> const& source, size_t count, size_t batch,
    std::function<bool(size_t, float const*, std::string const&)> const& done)
{
    Pending pending = start(bundle, source, 0, std::min(batch, count));
    for (size_t first = 0; first < count; first += batch)
    {
        std::vector<Prepared> images;
        for (auto& one : pending)
            images.push_back(one.get());
        size_t const next = std::min(first + batch, count);
        pending = start(bundle, source, next, std::min(batch, count - next));
        std::vector<std::vector<uint8_t>> good;
        for (Prepared const& image : images)
            if (image.problem.empty())
                good.push_back(image.pixels);
        std::vector<float> const logits = bundle.logits(good);
        float const* row = logits.data();
        for (size_t i = 0; i < images.size(); ++i)
        {
            bool const is_good = images[i].problem.empty();
            if (!done(first + i, is_good ? row : nullptr, images[i].problem))
                return;
            row += is_good ? bundle.classes.size() : 0;
        }
    }
}

std::string formatted(char const* format, int digits, double value)
{
    char text[64];
    std::snprintf(text, sizeof text, format, digits, value);
    return text;
}

std::string fixed(double value, int digits)
{
    return formatted("%.*f", digits, value);
}

// The line of an image: its most probable classes, as classify.py prints them.
std::string line(Bundle const& bundle, std::string const& name, float const* logits, Options const& options)
{
    size_t const count = bundle.classes.size(), top = std::min<size_t>(options.top, count);
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    double sum = 0;
    for (size_t i = 0; i < count; ++i)
        sum += std::exp(static_cast<double>(logits[i] - logits[order[0]]));
    std::string text = options.json ? "{\"image\": " + quoted(name) + ", \"top\": [" : name + ": ";
    for (size_t k = 0; k < top; ++k)
    {
        size_t const i = order[k];
        double const share = std::exp(static_cast<double>(logits[i] - logits[order[0]])) / sum;
        text += k ? ", " : "";
        text += options.json ? "{\"class\": " + quoted(bundle.classes[i]) + ", \"index\": " + std::to_string(i)
                + ", \"probability\": " + fixed(share, 6) + ", \"logit\": " + fixed(logits[i], 5) + "}"
                             : bundle.classes[i] + " " + fixed(100 * share, 1) + "%";
    }
    if (!options.json)
        return text;
    text += "]";
    for (size_t i = 0; options.logits && i < count; ++i)
        text += (i ? ", " : ", \"logits\": [") + formatted("%.*g", 6, logits[i]) + (i + 1 < count ? "" : "]");
    return text + "}";
}

int print_all(Bundle& bundle, Options const& options)
{
    int failed = 0;
    auto const names = names_of(options.images);
    size_t const batch = options.batch ? options.batch : bundle.engine->batches.back();
    auto const is_finite = [](float value) { return std::isfinite(value); };
    auto const print = [&](size_t i, float const* logits, std::string const& problem) {
        std::string const name = names[i] == "-" ? "stdin" : names[i];
        if (logits && std::all_of(logits, logits + bundle.classes.size(), is_finite))
            std::cout << line(bundle, name, logits, options) << std::endl;
        else
        {
            failed = 1;
            std::cerr << "error: " << (logits ? name + ": its logits are not finite: run selftest" : problem) << "\n";
        }
        return true;
    };
    classify(bundle, [&](size_t i) { return read(names[i]); }, names.size(), batch, print);
    if (!std::cout)
        throw Problem("standard output cannot be written: no space is left, or it is closed");
    return failed;
}

int selftest(Bundle& bundle)
{
    std::string const folder = bundle.folder + "/samples/";
    Json const recorded = parse_json(file_bytes(folder + "samples.json"), "samples.json");
    double const tolerance = recorded["tolerance"].number;
    bool failed = false;
    for (Json const& sample : recorded["samples"].list)
    {
        std::string const file = sample["file"].text;
        auto const logits = bundle.logits({bundle.pixels(file_bytes(folder + file), file)});
        auto const expected = sample["logits"].numbers();
        bool within = expected.size() == logits.size();
        double error = within ? 0 : INFINITY;
        for (size_t i = 0; i < std::min(logits.size(), expected.size()); ++i)
        {
            double const differs = std::fabs(logits[i] - expected[i]);
            within &= differs <= tolerance; // not so for NaN, which no maximum keeps
            error = std::max(error, differs);
        }
        size_t const top = std::max_element(logits.begin(), logits.end()) - logits.begin();
        failed |= !within;
        std::cout << file << ": " << bundle.classes[top] << ", logits differ by " << fixed(error, 5) << ": "
                  << (within ? "within " : "NOT within ") << fixed(tolerance, 5) << "\n";
    }
    std::cout << "selftest " << (failed ? "failed" : "passed") << "\n";
    return failed;
}

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin)
{
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

void print_rate(double rate, std::string const& what)
{
    std::printf("%10.1f images/s %s\n", rate, what.c_str());
}

int benchmark(Bundle& bundle, Options const& options)
{
    std::vector<Source> images;
    for (std::string const& name :
        names_of(options.images.empty() ? std::vector<std::string>{bundle.folder + "/samples"} : options.images))
        images.push_back(read(name));
    size_t const batch = options.batch ? options.batch : bundle.engine->batches.back(), all = SIZE_MAX / 2;
    std::string const at = ", batch " + std::to_string(batch);
    size_t count = 0;
    Clock::time_point begin = Clock::now();
    bool warm = false;
    classify(bundle, [&](size_t i) { return images[i % images.size()]; }, all, batch,
        [&](size_t, float const* logits, std::string const& problem) {
            if (!logits)
                throw Problem(problem);
            if (!warm && seconds_since(begin) > options.seconds / 10)
                warm = true, count = 0, begin = Clock::now();
            ++count;
            return !warm || seconds_since(begin) < options.seconds;
        });
    print_rate(count / seconds_since(begin), "from " + std::to_string(images.size()) + " files to classes" + at);
    auto const ready = bundle.input({batch, bundle.pixels(images[0].bytes, images[0].name)});
    bundle.engine->run(ready, static_cast<int>(batch));
    for (count = 0, begin = Clock::now(); seconds_since(begin) < options.seconds; count += batch)
        bundle.engine->run(ready, static_cast<int>(batch));
    print_rate(count / seconds_since(begin), "of what the engine takes to logits" + at);
    for (Json const& timed : bundle.result["benchmark"].list)
        print_rate(timed["images_per_second"].number, "in result.json at batch " + fixed(timed["batch"].number, 0));
    return 0;
}

int run(Options const& options)
{
    Bundle bundle(options.folder, options.threads);
    if (options.benchmark)
        return benchmark(bundle, options);
    if (options.images == std::vector<std::string>{"selftest"})
        return selftest(bundle);
    return print_all(bundle, options);
}

} // namespace

int main(int, char** words)
{
    try
    {
        return run(options_of(words + 1));
    }
    catch (std::exception const& problem)
    {
        std::string text = problem.what();
        std::replace(text.begin(), text.end(), '\n', ' ');
        std::cerr << "error: " << text << std::endl;
        return 1;
    }
}
