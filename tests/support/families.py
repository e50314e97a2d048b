"""Networks of timm's families, small and at small sizes, with random weights and random BatchNorm statistics."""

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from model import zoo

CLASSES = 10
SIZES = {
    56: """
        eva02_tiny_patch14_224
    """,
    64: """
        beit_base_patch16_224 caformer_s18 cait_xxs24_224 coat_lite_tiny coat_tiny convit_tiny
        convmixer_768_32 convnext_atto convnext_atto_ols cs3darknet_focus_s cspnext_tiny cspresnet50
        deit3_small_patch16_224 deit_tiny_distilled_patch16_224 densenet121 densenetblur121d dla46x_c
        dla60_res2net dpn48b eca_nfnet_l0 ecaresnetlight edgenext_xx_small efficientnet_b0 efficientnet_es
        efficientnet_lite0 efficientvim_m1 efficientvit_b0 efficientvit_l1 ese_vovnet19b_slim_dw fasternet_t0
        fastvit_ma36 fastvit_mci0 fastvit_s12 fastvit_sa12 fastvit_t8 fbnetv3_b focalnet_tiny_srf
        gemma4_vit_167m gernet_s ghostnet_050 ghostnetv2_100 ghostnetv3_050 gmlp_ti16_224 hardcorenas_a
        hgnet_tiny hgnetv2_b0 hrnet_w18_small iformer_t inception_next_atto lcnet_035 lcnetv2_small
        legacy_seresnet18 levit_128s levit_conv_128s lowformer_b0 mambaout_femto mixer_s32_224 mixnet_s
        mnasnet_small mobilenetv2_035 mobilenetv3_small_050 mobileone_s0 mobilevit_xxs mobilevitv2_050
        mvitv2_tiny naflexvit_base_patch16_gap nest_tiny nextvit_small nf_regnet_b0 pit_ti_distilled_224
        poolformer_s12 pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetv_040 regnetx_002 regnety_002 regnetz_005
        repghostnet_050 repvgg_a0 repvit_m0_9 repvit_m1_0 res2net50_14w_8s res2next50 resmlp_12_224 resnest14d
        resnet18 resnet18d resnetblur18 resnetrs50 resnetv2_50 resnetv2_50d_evos resnetv2_50d_frn
        resnetv2_50d_gn resnetv2_50x1_bit rexnet_100 rexnetr_100 samvit_base_patch16_224 selecsls42b
        sequencer2d_s seresnext26t_32x4d shvit_s1 skresnet18 spnasnet_100 starnet_s050 swiftformer_xs
        swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 tf_efficientnetv2_b0
        tiny_vit_5m_224 tinynet_e tnt_s_patch16_224 tresnet_m twins_pcpvt_small twins_svt_small vgg11_bn
        visformer_tiny vit_base_mci_224 vit_relpos_small_patch16_224 vit_small_resnet26d_224
        vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 vovnet39a xception41
        xception41p xcit_nano_12_p16_224
    """,
    96: """
        cpubone_b0_bfrobust cpubone_nano davit_tiny efficientvit_m0 inception_resnet_v2 inception_v3
        inception_v4 lambda_resnet26t legacy_xception nasnetalarge pnasnet5large resnet51q
    """,
    128: """
        botnet26t_256 csatv2 efficientformerv2_s0
    """,
    224: """
        coatnet_nano_rw_224 efficientformer_l1 gcvit_xxtiny hiera_tiny_224 sam2_hiera_tiny
    """,
    240: """
        crossvit_tiny_240
    """,
    256: """
        bat_resnext26ts eca_halonext26ts maxvit_rmlp_pico_rw_256 sehalonet33ts
    """,
}
NETWORKS = {name: size for size, names in SIZES.items() for name in names.split()}
FAST = ("fastvit_sa12", "fastvit_mci0", "resnet18", "mobilenetv3_small_050", "repvit_m0_9", "levit_128s")
# drawn like this, these amplify rounding to about 1e-4, so they may be refused, each with this
REFUSED = dict.fromkeys(("dla60_res2net", "inception_v4", "regnetv_040"), "float32 rounding alone")


def network(name, size, seed=0):
    """Return a network in evaluation mode in which no parameter is zero and no BatchNorm neutral."""
    torch.manual_seed(seed)
    model = zoo.create({"timm": name, "size": size}, CLASSES)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, 0, 0.02)
    return randomized(model, torch.randn(16, 3, size, size))


@torch.no_grad()
def randomized(model, images):
    """Draw the statistics of a network's BatchNorms around those of images, so that no signal dies on the way."""
    hooks = [m.register_forward_pre_hook(_draw) for m in model.modules() if isinstance(m, _BatchNorm)]
    model(images)
    for hook in hooks:
        hook.remove()
    return model


def _draw(norm, inputs):
    dims = [dim for dim in range(inputs[0].ndim) if dim != 1]
    if norm.running_mean is not None:
        mean, variance = inputs[0].mean(dims), inputs[0].var(dims)
        variance = variance + 0.01 * variance.mean() + 1e-6
        norm.running_mean.copy_(mean + 0.3 * variance.sqrt() * torch.randn_like(mean))
        norm.running_var.copy_(variance * torch.empty_like(variance).uniform_(0.5, 2))
    if norm.weight is not None:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.3)
