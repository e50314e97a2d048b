// A JSON value, as the files of a bundle have them.
#pragma once

#include <map>
#include <stdexcept>
#include <string>
#include <vector>

// A problem that the user can solve: one line.
struct Problem : std::runtime_error
{
    using std::runtime_error::runtime_error;
};

struct Json
{
    enum class Kind
    {
        null,
        boolean,
        number,
        text,
        list,
        object
    };

    Kind kind = Kind::null;
    double number = 0; // also 0 or 1 of a boolean
    std::string text;
    std::vector<Json> list;
    std::map<std::string, Json> object;

    // The value of a key; throws Problem without it.
    Json const& operator[](std::string const& key) const;

    // A list of numbers.
    std::vector<float> numbers() const;
};

// Parse a text; `name` is the file's, for the Problem that a damaged one throws.
Json parse_json(std::string const& text, std::string const& name);

// A text as a JSON string, quotes included.
std::string quoted(std::string const& text);
