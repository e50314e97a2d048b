// A registry, a logger and what a builder asks of a plugin, without TensorRT: prints a line for each answer.
//
//   shell NAME heads key_dim val_dim queries keys NUMBER_OF_BIASES BIAS
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "NvInferRuntime.h"

using namespace nvinfer1;

struct Registry : IPluginRegistry
{
    std::vector<IPluginCreator*> creators;

    bool registerCreator(IPluginCreator& creator, char const*) noexcept override
    {
        creators.push_back(&creator);
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

    IDimensionExpr const* constant(int32_t value) override
    {
        made[count].value = value;
        return &made[count++];
    }
};

static void ask(IPluginV2DynamicExt& plugin, int inputs, bool image)
{
    struct
    {
        char const* name;
        DataType type;
        TensorFormat format;
    } const kinds[] = {{"fp32 linear", DataType::kFLOAT, TensorFormat::kLINEAR},
        {"fp32 hwc", DataType::kFLOAT, TensorFormat::kHWC}, {"fp16 linear", DataType::kHALF, TensorFormat::kLINEAR},
        {"fp16 hwc8", DataType::kHALF, TensorFormat::kHWC8}, {"int8 linear", DataType::kINT8, TensorFormat::kLINEAR}};
    for (auto const& kind : kinds)
    {
        PluginTensorDesc const desc{{}, kind.type, kind.format, 1.F};
        std::vector<PluginTensorDesc> const all(inputs + 1, desc);
        bool taken = true;
        for (int place = 0; place <= inputs; ++place)
        {
            taken &= plugin.supportsFormatCombination(place, all.data(), inputs, 1);
        }
        if (taken)
        {
            std::printf("takes %s\n", kind.name);
        }
    }
    IDimensionExpr const sizes[] = {{-1}, {50}, {60}, {70}};
    DimsExprs const given{image ? 4 : 3, {&sizes[0], &sizes[1], &sizes[2], &sizes[3]}};
    std::vector<DimsExprs> const all(inputs, given);
    Builder builder;
    DimsExprs const result = plugin.getOutputDimensions(0, all.data(), inputs, builder);
    std::printf("result");
    for (int i = 0; i < result.nbDims; ++i)
    {
        std::printf(" %d", result.d[i]->value);
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
    for (IPluginCreator* creator : creators)
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
        fields.emplace_back("bias", bias.data(), PluginFieldType::kFLOAT32, static_cast<int>(bias.size()));
        PluginFieldCollection const given{static_cast<int>(fields.size()), fields.data()};
        auto* const plugin = static_cast<IPluginV2DynamicExt*>(creator->createPlugin("attn", &given));
        if (plugin == nullptr)
        {
            continue;
        }
        bool const image = std::strstr(words[1], "Image") != nullptr;
        ask(*plugin, std::strstr(words[1], "Downsample") ? 2 : 1, image);
        std::vector<char> data(plugin->getSerializationSize()), again;
        plugin->serialize(data.data());
        auto* const copy
            = static_cast<IPluginV2DynamicExt*>(creator->deserializePlugin("attn", data.data(), data.size()));
        again.resize(copy->getSerializationSize());
        copy->serialize(again.data());
        std::printf("copy %s %s\n", copy->getPluginType(), data == again ? "same" : "differs");
        std::printf("cut off %s\n", creator->deserializePlugin("attn", data.data(), 8) ? "taken" : "refused");
        std::printf("shorter %s\n",
            creator->deserializePlugin("attn", data.data(), data.size() - 4) ? "taken" : "refused");
        copy->destroy();
        plugin->clone()->destroy();
        plugin->destroy();
    }
    return 0;
}
