#include "json.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace
{

constexpr int deepest = 64;

void append_utf8(std::string& text, unsigned code)
{
    if (code < 0x80)
        text += static_cast<char>(code);
    else if (code < 0x800)
        (text += static_cast<char>(0xC0 | code >> 6)) += static_cast<char>(0x80 | (code & 0x3F));
    else if (code < 0x10000)
    {
        text += static_cast<char>(0xE0 | code >> 12);
        (text += static_cast<char>(0x80 | (code >> 6 & 0x3F))) += static_cast<char>(0x80 | (code & 0x3F));
    }
    else
    {
        (text += static_cast<char>(0xF0 | code >> 18)) += static_cast<char>(0x80 | (code >> 12 & 0x3F));
        (text += static_cast<char>(0x80 | (code >> 6 & 0x3F))) += static_cast<char>(0x80 | (code & 0x3F));
    }
}

class Parser
{
public:
    Parser(std::string const& text, std::string const& name)
        : place_(text.c_str())
        , name_(name)
    {
    }

    Json whole()
    {
        Json value = parse(0);
        skip();
        if (*place_)
            fail();
        return value;
    }

private:
    [[noreturn]] void fail() const
    {
        throw Problem(name_ + " is not JSON: unpack the bundle again");
    }

    void skip()
    {
        while (*place_ && std::strchr(" \t\r\n", *place_))
            ++place_;
    }

    bool take(char expected)
    {
        skip();
        if (*place_ != expected)
            return false;
        ++place_;
        return true;
    }

    void need(char expected)
    {
        if (!take(expected))
            fail();
    }

    Json parse(int depth)
    {
        if (depth > deepest)
            fail();
        skip();
        switch (*place_)
        {
        case '{': return object(depth);
        case '[': return list(depth);
        case '"': return text();
        default: return word();
        }
    }

    Json object(int depth)
    {
        Json value;
        value.kind = Json::Kind::object;
        need('{');
        if (take('}'))
            return value;
        do
        {
            skip();
            std::string const key = text().text;
            need(':');
            value.object[key] = parse(depth + 1);
        } while (take(','));
        need('}');
        return value;
    }

    Json list(int depth)
    {
        Json value;
        value.kind = Json::Kind::list;
        need('[');
        if (take(']'))
            return value;
        do
            value.list.push_back(parse(depth + 1));
        while (take(','));
        need(']');
        return value;
    }

    unsigned code()
    {
        char digits[5] = {};
        for (int i = 0; i < 4; ++i)
            if (!(digits[i] = *place_++))
                fail();
        char* end;
        unsigned const value = static_cast<unsigned>(std::strtoul(digits, &end, 16));
        if (end != digits + 4)
            fail();
        return value;
    }

    Json text()
    {
        static char const escapes[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
        Json value;
        value.kind = Json::Kind::text;
        need('"');
        while (*place_ != '"')
        {
            if (!*place_)
                fail();
            if (*place_ != '\\')
            {
                value.text += *place_++;
                continue;
            }
            char const kind = *++place_;
            if (!kind)
                fail();
            ++place_;
            if (kind == 'u')
            {
                unsigned character = code();
                if (character >= 0xD800 && character < 0xDC00 && place_[0] == '\\' && place_[1] == 'u')
                {
                    place_ += 2;
                    character = 0x10000 + ((character - 0xD800) << 10) + (code() - 0xDC00);
                }
                append_utf8(value.text, character);
            }
            else if (char const* known = std::strchr(escapes, kind))
                value.text += meant[known - escapes];
            else
                fail();
        }
        ++place_;
        return value;
    }

    Json word()
    {
        Json value;
        for (char const* known : {"null", "false", "true"})
            if (std::strncmp(place_, known, std::strlen(known)) == 0)
            {
                place_ += std::strlen(known);
                value.kind = *known == 'n' ? Json::Kind::null : Json::Kind::boolean;
                value.number = *known == 't';
                return value;
            }
        char* end;
        value.kind = Json::Kind::number;
        value.number = std::strtod(place_, &end);
        if (end == place_)
            fail();
        place_ = end;
        return value;
    }

    char const* place_;
    std::string const& name_;
};

} // namespace

Json const& Json::operator[](std::string const& key) const
{
    auto const found = object.find(key);
    if (found == object.end())
        throw Problem("a file of the bundle lacks the key " + key + ": unpack the bundle again");
    return found->second;
}

std::vector<float> Json::numbers() const
{
    std::vector<float> values;
    for (Json const& one : list)
        values.push_back(static_cast<float>(one.number));
    return values;
}

Json parse_json(std::string const& text, std::string const& name)
{
    return Parser(text, name).whole();
}

std::string quoted(std::string const& text)
{
    std::string result = "\"";
    for (unsigned char const character : text)
    {
        char code[8];
        if (character == '"' || character == '\\')
            (result += '\\') += static_cast<char>(character);
        else if (character < 0x20)
            std::snprintf(code, sizeof code, "\\u%04x", character), result += code;
        else
            result += static_cast<char>(character);
    }
    return result + "\"";
}
