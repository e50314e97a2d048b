// A registry, a logger and what a builder asks of a plugin, without TensorRT: prints a line for each answer. The scales
// are all 0.25.
//
//   shell NAME heads key_dim val_dim queries keys NUMBER_OF_BIASES BIAS
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "NvInferRuntime.h"

using namespace nvinfer1;

// The two interfaces by the same names.

#if NV_TENSORRT_MAJOR >= 10

using Kind = IPluginCreatorV3One;
using Desc = DynamicPluginTensorDesc;
using Plugin = IPluginV3;

static IPluginV3OneBuild& builds(Plugin& plugin)
{
    return *static_cast<IPluginV3OneBuild*>(plugin.getCapabilityInterface(PluginCapabilityType::kBUILD));
}

static PluginFieldCollection fields_of(Plugin& plugin)
{
    auto* const runtime = plugin.getCapabilityInterface(PluginCapabilityType::kRUNTIME);
    return *static_cast<IPluginV3OneRuntime*>(runtime)->getFieldsToSerialize();
}

static Plugin* made(Kind& creator, PluginFieldCollection const& fields)
{
    return creator.createPlugin("attn", &fields, TensorRTPhase::kBUILD);
}

static DimsExprs result_of(Plugin& plugin, std::vector<DimsExprs> const& all, IExprBuilder& builder)
{
    DimsExprs result{};
    builds(plugin).getOutputShapes(all.data(), static_cast<int>(all.size()), nullptr, 0, &result, 1, builder);
    return result;
}

static Desc described(PluginTensorDesc const& desc)
{
    return {desc, {}, {}};
}

static bool is_equal(PluginFieldCollection const& one, PluginFieldCollection const& other)
{
    bool same = one.nbFields == other.nbFields;
    for (int i = 0; same && i < one.nbFields; ++i)
    {
        auto const &a = one.fields[i], &b = other.fields[i];
        same = !std::strcmp(a.name, b.name) && a.type == b.type && a.length == b.length
            && !std::memcmp(a.data, b.data, 4 * a.length);
    }
    return same;
}

static void copies(Kind& creator, Plugin& plugin)
{
    PluginFieldCollection kept = fields_of(plugin);
    Plugin* const copy = creator.createPlugin("attn", &kept, TensorRTPhase::kRUNTIME);
    auto* const core = static_cast<IPluginV3OneCore*>(copy->getCapabilityInterface(PluginCapabilityType::kCORE));
    std::printf("copy %s %s\n", core->getPluginName(), is_equal(kept, fields_of(*copy)) ? "same" : "differs");
    std::vector<PluginField> fields(kept.fields, kept.fields + kept.nbFields);
    PluginFieldCollection const without{kept.nbFields - 1, fields.data()}, shorter{kept.nbFields, fields.data()};
    std::printf("cut off %s\n", creator.createPlugin("attn", &without, TensorRTPhase::kRUNTIME) ? "taken" : "refused");
    --fields.back().length;
    std::printf("shorter %s\n", creator.createPlugin("attn", &shorter, TensorRTPhase::kRUNTIME) ? "taken" : "refused");
    delete copy;
    delete plugin.clone();
    delete &plugin;
}

#else

using Kind = IPluginCreator;
using Desc = PluginTensorDesc;
using Plugin = IPluginV2DynamicExt;

static Plugin& builds(Plugin& plugin)
{
    return plugin;
}

static Plugin* made(Kind& creator, PluginFieldCollection const& fields)
{
    return static_cast<Plugin*>(creator.createPlugin("attn", &fields));
}

static DimsExprs result_of(Plugin& plugin, std::vector<DimsExprs> const& all, IExprBuilder& builder)
{
    return plugin.getOutputDimensions(0, all.data(), static_cast<int>(all.size()), builder);
}

static Desc described(PluginTensorDesc const& desc)
{
    return desc;
}

static void copies(Kind& creator, Plugin& plugin)
{
    std::vector<char> data(plugin.getSerializationSize()), again;
    plugin.serialize(data.data());
    auto* const copy = static_cast<Plugin*>(creator.deserializePlugin("attn", data.data(), data.size()));
    again.resize(copy->getSerializationSize());
    copy->serialize(again.data());
    std::printf("copy %s %s\n", copy->getPluginType(), data == again ? "same" : "differs");
    std::printf("cut off %s\n", creator.deserializePlugin("attn", data.data(), 8) ? "taken" : "refused");
    std::printf("shorter %s\n", creator.deserializePlugin("attn", data.data(), data.size() - 4) ? "taken" : "refused");
    copy->destroy();
    plugin.clone()->destroy();
    plugin.destroy();
}

#endif

struct Registry : IPluginRegistry
{
    std::vector<Kind*> creators;

    bool registerCreator(Registered& creator, char const*) noexcept override
    {
        creators.push_back(static_cast<Kind*>(&creator));
        return true;
    }
};

struct Logger : ILogger
{
    void log(Severity, char const* text) noexcept override { std::printf("error: %s\n", text); }
};

extern "C" IPluginRegistry* getPluginRegistry() noexcept
{
    static Registry registry;
    return &registry;
}

extern "C" ILogger* getLogger() noexcept
{
    static Logger logger;
    return &logger;
}

struct Builder : IExprBuilder
{
    IDimensionExpr made[8];
    int count = 0;

    IDimensionExpr const* constant(Extent value) override
    {
        made[count].value = value;
        return &made[count++];
    }
};

static void ask(Plugin& plugin, int inputs, bool image)
{
    struct
    {
        char const* name;
        DataType type;
        TensorFormat format;
    } const kinds[] = {{"fp32 linear", DataType::kFLOAT, TensorFormat::kLINEAR},
        {"fp32 hwc", DataType::kFLOAT, TensorFormat::kHWC}, {"fp16 linear", DataType::kHALF, TensorFormat::kLINEAR},
        {"fp16 hwc8", DataType::kHALF, TensorFormat::kHWC8}, {"int8 linear", DataType::kINT8, TensorFormat::kLINEAR},
        {"int8 chw32", DataType::kINT8, TensorFormat::kCHW32}};
    for (auto const& in : kinds)
    {
        for (auto const& out : kinds)
        {
            std::vector<Desc> all(inputs, described({{}, in.type, in.format, 1.F}));
            all.push_back(described({{}, out.type, out.format, 1.F}));
            bool taken = true;
            for (int place = 0; place <= inputs; ++place)
            {
                taken &= builds(plugin).supportsFormatCombination(place, all.data(), inputs, 1);
            }
            if (taken)
            {
                std::printf("takes %s to %s\n", in.name, out.name);
            }
        }
    }
    IDimensionExpr const sizes[] = {{-1}, {50}, {60}, {70}};
    DimsExprs const given{image ? 4 : 3, {&sizes[0], &sizes[1], &sizes[2], &sizes[3]}};
    std::vector<DimsExprs> const all(inputs, given);
    Builder builder;
    DimsExprs const result = result_of(plugin, all, builder);
    std::printf("result");
    for (int i = 0; i < result.nbDims; ++i)
    {
        std::printf(" %d", static_cast<int>(result.d[i]->value));
    }
    std::printf("\n");
}

int main(int, char** words)
{
    std::vector<int> sizes;
    for (int i = 2; i < 7; ++i)
    {
        sizes.push_back(std::atoi(words[i]));
    }
    std::vector<float> const bias(std::atoi(words[7]), static_cast<float>(std::atof(words[8])));
    auto& creators = static_cast<Registry*>(getPluginRegistry())->creators;
    for (Kind* creator : creators)
    {
        std::printf("has %s %s\n", creator->getPluginName(), creator->getPluginVersion());
        if (std::strcmp(creator->getPluginName(), words[1]))
        {
            continue;
        }
        std::vector<PluginField> fields;
        PluginFieldCollection const* const names = creator->getFieldNames();
        for (int i = 0; i < 5; ++i)
        {
            fields.emplace_back(names->fields[i].name, &sizes[i], PluginFieldType::kINT32, 1);
        }
        float const scale = 0.25F;
        for (int i = 5; i < 9; ++i)
        {
            fields.emplace_back(names->fields[i].name, &scale, PluginFieldType::kFLOAT32, 1);
        }
        fields.emplace_back("bias", bias.data(), PluginFieldType::kFLOAT32, static_cast<int>(bias.size()));
        PluginFieldCollection const given{static_cast<int>(fields.size()), fields.data()};
        Plugin* const plugin = made(*creator, given);
        if (plugin == nullptr)
        {
            continue;
        }
        bool const image = std::strstr(words[1], "Image") != nullptr;
        ask(*plugin, std::strstr(words[1], "Downsample") ? 2 : 1, image);
        copies(*creator, *plugin);
    }
    return 0;
}
