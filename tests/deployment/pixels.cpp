// Write what preprocess.cpp makes of images: pixels JSON FILE..., where JSON is preprocess.json; FILE.raw has the pixels.
#include "bundle.h"

#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

int main(int, char** words)
{
    auto const bytes = [](char const* path) {
        std::ifstream stream(path, std::ios::binary);
        return std::string{std::istreambuf_iterator<char>(stream), {}};
    };
    Geometry const geometry(parse_json(bytes(words[1]), words[1]));
    for (char** word = words + 2; *word; ++word)
        try
        {
            auto const pixels = prepare(decode(bytes(*word), *word), geometry);
            std::ofstream stream(std::string(*word) + ".raw", std::ios::binary);
            stream.write(reinterpret_cast<char const*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
        }
        catch (Problem const& problem)
        {
            std::cout << problem.what() << "\n";
        }
}
