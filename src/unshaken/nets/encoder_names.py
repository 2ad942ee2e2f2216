"""Names of weights in others' files of encoders, beside timm's names of the same"""

from __future__ import annotations

from unshaken.nets.name_rules import rules

CLIP = rules(
    """
    class_embedding                                        cls_token
    positional_embedding                                   pos_embed
    conv1.weight                                           patch_embed.proj.weight
    ln_pre.{p}                                             norm_pre.{p}
    transformer.resblocks.{i}.ln_1.{p}                     blocks.{i}.norm1.{p}
    transformer.resblocks.{i}.attn.in_proj_{p}             blocks.{i}.attn.qkv.{p}
    transformer.resblocks.{i}.attn.out_proj.{p}            blocks.{i}.attn.proj.{p}
    transformer.resblocks.{i}.ln_2.{p}                     blocks.{i}.norm2.{p}
    transformer.resblocks.{i}.mlp.c_fc.{p}                 blocks.{i}.mlp.fc1.{p}
    transformer.resblocks.{i}.mlp.c_proj.{p}               blocks.{i}.mlp.fc2.{p}
    ln_post.{p}                                            norm.{p}
    proj                                                   head.weight  transposed
    """
)
"""OpenAI's CLIP and open_clip's `visual`."""
HF_CLIP = rules(
    """
    embeddings.class_embedding                             cls_token
    embeddings.position_embedding.weight                   pos_embed
    embeddings.patch_embedding.{p}                         patch_embed.proj.{p}
    pre_layrnorm.{p}                                       norm_pre.{p}
    encoder.layers.{i}.layer_norm1.{p}                     blocks.{i}.norm1.{p}
    encoder.layers.{i}.self_attn.{q,k,v}_proj.{p}          blocks.{i}.attn.qkv.{p}
    encoder.layers.{i}.self_attn.out_proj.{p}              blocks.{i}.attn.proj.{p}
    encoder.layers.{i}.layer_norm2.{p}                     blocks.{i}.norm2.{p}
    encoder.layers.{i}.mlp.{fc}.{p}                        blocks.{i}.mlp.{fc}.{p}
    post_layernorm.{p}                                     norm.{p}
    ../visual_projection.weight                            head.weight
    head.probe                                             attn_pool.latent
    head.attention.in_proj_{p}                             attn_pool.{q,kv}.{p}
    head.attention.out_proj.{p}                            attn_pool.proj.{p}
    head.layernorm.{p}                                     attn_pool.norm.{p}
    head.mlp.{fc}.{p}                                      attn_pool.mlp.{fc}.{p}
    """
)
"""CLIP and SigLIP in transformers. `../` is beside the network, not within."""
HF_VIT = rules(
    """
    embeddings.cls_token                                   cls_token
    embeddings.position_embeddings                         pos_embed
    embeddings.register_tokens                             reg_token
    embeddings.patch_embeddings.projection.{p}             patch_embed.proj.{p}
    encoder.layer.{i}.layernorm_before.{p}                 blocks.{i}.norm1.{p}
    encoder.layer.{i}.norm1.{p}                            blocks.{i}.norm1.{p}
    encoder.layer.{i}.attention.attention.{query,key,value}.{p}   blocks.{i}.attn.qkv.{p}
    encoder.layer.{i}.attention.output.dense.{p}           blocks.{i}.attn.proj.{p}
    encoder.layer.{i}.layer_scale1.lambda1                 blocks.{i}.ls1.gamma
    encoder.layer.{i}.layernorm_after.{p}                  blocks.{i}.norm2.{p}
    encoder.layer.{i}.norm2.{p}                            blocks.{i}.norm2.{p}
    encoder.layer.{i}.intermediate.dense.{p}               blocks.{i}.mlp.fc1.{p}
    encoder.layer.{i}.output.dense.{p}                     blocks.{i}.mlp.fc2.{p}
    encoder.layer.{i}.mlp.{fc}.{p}                         blocks.{i}.mlp.{fc}.{p}
    encoder.layer.{i}.mlp.weights_in.{p}                   blocks.{i}.mlp.fc1.{p}
    encoder.layer.{i}.mlp.weights_out.{p}                  blocks.{i}.mlp.fc2.{p}
    encoder.layer.{i}.layer_scale2.lambda1                 blocks.{i}.ls2.gamma
    layernorm.{p}                                          norm.{p}
    """
)
"""ViT, DINO, MAE and DINOv2 in transformers' files."""
TIMM_VIT = rules(
    """
    cls_token                                              cls_token
    pos_embed                                              pos_embed
    reg_token                                              reg_token
    register_tokens                                        reg_token
    patch_embed.proj.{p}                                   patch_embed.proj.{p}
    norm_pre.{p}                                           norm_pre.{p}
    blocks.{i}.norm1.{p}                                   blocks.{i}.norm1.{p}
    blocks.{i}.attn.qkv.{p}                                blocks.{i}.attn.qkv.{p}
    blocks.{i}.attn.proj.{p}                               blocks.{i}.attn.proj.{p}
    blocks.{i}.ls1.gamma                                   blocks.{i}.ls1.gamma
    blocks.{i}.norm2.{p}                                   blocks.{i}.norm2.{p}
    blocks.{i}.mlp.{fc}.{p}                                blocks.{i}.mlp.{fc}.{p}
    blocks.{i}.mlp.w12.{p}                                 blocks.{i}.mlp.fc1.{p}
    blocks.{i}.mlp.w3.{p}                                  blocks.{i}.mlp.fc2.{p}
    blocks.{i}.ls2.gamma                                   blocks.{i}.ls2.gamma
    norm.{p}                                               norm.{p}
    fc_norm.{p}                                            fc_norm.{p}
    attn_pool.latent                                       attn_pool.latent
    attn_pool.{pool}.{p}                                   attn_pool.{pool}.{p}
    attn_pool.mlp.{fc}.{p}                                 attn_pool.mlp.{fc}.{p}
    """
)
"""DINO, DINOv2, MAE and timm: nearly the same names."""
TORCHVISION_VIT = rules(
    """
    class_token                                            cls_token
    encoder.pos_embedding                                  pos_embed
    conv_proj.{p}                                          patch_embed.proj.{p}
    encoder.layers.encoder_layer_{i}.ln_1.{p}              blocks.{i}.norm1.{p}
    encoder.layers.encoder_layer_{i}.self_attention.in_proj_{p}    blocks.{i}.attn.qkv.{p}
    encoder.layers.encoder_layer_{i}.self_attention.out_proj.{p}   blocks.{i}.attn.proj.{p}
    encoder.layers.encoder_layer_{i}.ln_2.{p}              blocks.{i}.norm2.{p}
    encoder.layers.encoder_layer_{i}.mlp.0.{p}             blocks.{i}.mlp.fc1.{p}
    encoder.layers.encoder_layer_{i}.mlp.3.{p}             blocks.{i}.mlp.fc2.{p}
    encoder.layers.encoder_layer_{i}.mlp.linear_1.{p}      blocks.{i}.mlp.fc1.{p}
    encoder.layers.encoder_layer_{i}.mlp.linear_2.{p}      blocks.{i}.mlp.fc2.{p}
    encoder.ln.{p}                                         norm.{p}
    """
)
"""torchvision's ViT, and its older files."""
_HF_DINOV3 = """
    embeddings.cls_token                                   cls_token
    embeddings.register_tokens                             reg_token
    embeddings.patch_embeddings.{p}                        patch_embed.proj.{p}
    layer.{i}.norm1.{p}                                    blocks.{i}.norm1.{p}
    layer.{i}.attention.{q,k,v}_proj.weight                blocks.{i}.attn.qkv.weight
    layer.{i}.attention.q_proj.bias                        blocks.{i}.attn.q_bias
    layer.{i}.attention.v_proj.bias                        blocks.{i}.attn.v_bias
    layer.{i}.attention.o_proj.{p}                         blocks.{i}.attn.proj.{p}
    layer.{i}.layer_scale1.lambda1                         blocks.{i}.gamma_1
    layer.{i}.norm2.{p}                                    blocks.{i}.norm2.{p}
    layer.{i}.mlp.down_proj.{p}                            blocks.{i}.mlp.fc2.{p}
    layer.{i}.layer_scale2.lambda1                         blocks.{i}.gamma_2
    norm.{p}                                               norm.{p}
    """
HF_DINOV3 = rules(_HF_DINOV3 + "layer.{i}.mlp.up_proj.{p} blocks.{i}.mlp.fc1.{p}")
"""DINOv3 in transformers' files, S to L."""
HF_DINOV3_GATED = rules(
    _HF_DINOV3
    + """
    layer.{i}.mlp.gate_proj.{p}                            blocks.{i}.mlp.fc1_g.{p}
    layer.{i}.mlp.up_proj.{p}                              blocks.{i}.mlp.fc1_x.{p}
    """
)
"""The same with gated MLPs: H+ and 7B."""
DINOV3 = rules(
    """
    cls_token                                              cls_token
    storage_tokens                                         reg_token
    patch_embed.proj.{p}                                   patch_embed.proj.{p}
    blocks.{i}.norm1.{p}                                   blocks.{i}.norm1.{p}
    blocks.{i}.attn.qkv.weight                             blocks.{i}.attn.qkv.weight
    blocks.{i}.attn.qkv.bias                               blocks.{i}.attn.{q_bias,-,v_bias}
    blocks.{i}.attn.proj.{p}                               blocks.{i}.attn.proj.{p}
    blocks.{i}.ls1.gamma                                   blocks.{i}.gamma_1
    blocks.{i}.norm2.{p}                                   blocks.{i}.norm2.{p}
    blocks.{i}.mlp.{fc}.{p}                                blocks.{i}.mlp.{fc}.{p}
    blocks.{i}.mlp.w1.{p}                                  blocks.{i}.mlp.fc1_g.{p}
    blocks.{i}.mlp.w2.{p}                                  blocks.{i}.mlp.fc1_x.{p}
    blocks.{i}.mlp.w3.{p}                                  blocks.{i}.mlp.fc2.{p}
    blocks.{i}.ls2.gamma                                   blocks.{i}.gamma_2
    norm.{p}                                               norm.{p}
    """
)
"""DINOv3 as Meta published it. The bias of the keys is masked, so that no network computes with it."""


def _clip_resnet() -> str:
    """Return the table of CLIP's ResNets: their stages count from 1, timm's from 0."""
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    kernels = {1: "conv1_1x1", 2: "conv2_kxk", 3: "conv3_1x1"}
    lines = ["attnpool.positional_embedding head.pos_embed"]
    lines += [
        f"attnpool.{name}_proj.{{p}} head.{ours}.{{p}}"
        for name, ours in zip("qkvc", ("q", "k", "v", "proj"), strict=True)
    ]
    for k, kernel in kernels.items():
        lines += [f"conv{k}.weight stem.conv{k}.conv.weight"]
        lines += [f"bn{k}.{part} stem.conv{k}.bn.{part}" for part in parts]
        for stage in range(4):
            theirs, ours = f"layer{stage + 1}.{{i}}", f"stages.{stage}.{{i}}"
            lines += [f"{theirs}.conv{k}.weight {ours}.{kernel}.conv.weight"]
            lines += [f"{theirs}.bn{k}.{part} {ours}.{kernel}.bn.{part}" for part in parts]
    for stage in range(4):
        theirs, ours = f"layer{stage + 1}.{{i}}.downsample", f"stages.{stage}.{{i}}.shortcut.conv"
        lines += [f"{theirs}.0.weight {ours}.conv.weight", *(f"{theirs}.1.{part} {ours}.bn.{part}" for part in parts)]
    return "\n".join(lines)


CLIP_RESNET = rules(_clip_resnet())
"""The ResNets of OpenAI's CLIP and of open_clip."""
EVA02 = rules(
    """
    cls_token                                              cls_token
    pos_embed                                              pos_embed
    patch_embed.proj.{p}                                   patch_embed.proj.{p}
    blocks.{i}.norm1.{p}                                   blocks.{i}.norm1.{p}
    blocks.{i}.attn.q_proj.{p}                             blocks.{i}.attn.q_proj.{p}
    blocks.{i}.attn.k_proj.weight                          blocks.{i}.attn.k_proj.weight
    blocks.{i}.attn.v_proj.{p}                             blocks.{i}.attn.v_proj.{p}
    blocks.{i}.attn.norm.{p}                               blocks.{i}.attn.norm.{p}
    blocks.{i}.attn.proj.{p}                               blocks.{i}.attn.proj.{p}
    blocks.{i}.norm2.{p}                                   blocks.{i}.norm2.{p}
    blocks.{i}.mlp.fc1_g.{p}                               blocks.{i}.mlp.fc1_g.{p}
    blocks.{i}.mlp.fc1_x.{p}                               blocks.{i}.mlp.fc1_x.{p}
    blocks.{i}.mlp.norm.{p}                                blocks.{i}.mlp.norm.{p}
    blocks.{i}.mlp.fc2.{p}                                 blocks.{i}.mlp.fc2.{p}
    norm.{p}                                               norm.{p}
    head.{p}                                               head.{p}
    """
)
"""EVA-02 of CLIP in open_clip and timm, B and L. Its projection has a bias."""
EVA = rules(
    """
    cls_token                                              cls_token
    pos_embed                                              pos_embed
    patch_embed.proj.{p}                                   patch_embed.proj.{p}
    blocks.{i}.norm1.{p}                                   blocks.{i}.norm1.{p}
    blocks.{i}.attn.qkv.weight                             blocks.{i}.attn.qkv.weight
    blocks.{i}.attn.q_bias                                 blocks.{i}.attn.q_bias
    blocks.{i}.attn.v_bias                                 blocks.{i}.attn.v_bias
    blocks.{i}.attn.proj.{p}                               blocks.{i}.attn.proj.{p}
    blocks.{i}.norm2.{p}                                   blocks.{i}.norm2.{p}
    blocks.{i}.mlp.fc1.{p}                                 blocks.{i}.mlp.fc1.{p}
    blocks.{i}.mlp.fc2.{p}                                 blocks.{i}.mlp.fc2.{p}
    norm.{p}                                               norm.{p}
    head.{p}                                               head.{p}
    """
)
"""EVA of CLIP in open_clip and timm, g and E. Its projection has a bias."""


def _clip_convnext() -> str:
    """Return the table of open_clip's ConvNeXt: timm's names, and a projection beside the network."""
    lines = ["stem.0.{p} stem.0.{p}", "stem.1.{p} stem.1.{p}", "head.norm.{p} head.norm.{p}"]
    for stage in range(4):
        blocks = f"stages.{stage}.blocks.{{i}}"
        names = [f"stages.{stage}.downsample.{k}.{{p}}" for k in (0, 1)]
        names += [f"{blocks}.{part}.{{p}}" for part in ("conv_dw", "norm", "mlp.fc1", "mlp.fc2")]
        lines += [f"{name} {name}" for name in (*names, f"{blocks}.gamma")]
    lines += ["../head.proj.weight head.fc.weight", "../head.mlp.fc1.{p} head.pre_logits.fc.{p}"]
    return "\n".join([*lines, "../head.mlp.fc2.weight head.fc.weight"])


CLIP_CONVNEXT = rules(_clip_convnext())
"""The ConvNeXt of open_clip."""
