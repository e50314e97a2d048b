// TensorRT's shell around attention.h: an IPluginV2DynamicExt up to 9, an IPluginV3 from 10 on.
//
// Plugins of one class: LevitAttention of the product qkv, LevitAttentionDownsample of the products kv and q, on tokens
// [B, tokens, channels]; with Image behind their names on images [B, channels, height, width], which in FP16 have their
// channels last: the bytes of tokens. With Int8 behind that, inputs and result are codes of INT8 (Int8In, Int8Out: one
// of them), which images have 32 channels at a time. workflow_scripts/graph/attention.py writes their nodes.

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
    Creator creators[kKinds];

    Registered()
    {
        for (int i = 0; i < kKinds; ++i)
        {
            creators[i].set(kind_of(i));
            getPluginRegistry()->registerCreator(creators[i], "");
        }
    }
} registered;

} // namespace
} // namespace levit
