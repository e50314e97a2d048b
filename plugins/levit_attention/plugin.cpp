// TensorRT's shell around attention.h: an IPluginV2DynamicExt up to 9, an IPluginV3 from 10 on.
//
// Plugins of one class: LevitAttention of the product qkv, LevitAttentionDownsample of the products kv and q, on tokens
// [B, tokens, channels]; with Image behind their names on images [B, channels, height, width], which in FP16 have their
// channels last: the bytes of tokens. workflow_scripts/graph/attention.py writes their nodes.

#include <NvInferVersion.h>

#if NV_TENSORRT_MAJOR < 10
#include "plugin_v2.h"
#else
#include "plugin_v3.h"
#endif

namespace levit
{
namespace
{

// Loading the library is what registers its plugins.
struct Registered
{
    Creator creators[4] = {{false, false}, {true, false}, {false, true}, {true, true}};

    Registered()
    {
        for (Creator& creator : creators)
        {
            getPluginRegistry()->registerCreator(creator, "");
        }
    }
} registered;

} // namespace
} // namespace levit
