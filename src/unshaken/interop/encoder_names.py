"""Names of weights in others' files of encoders, beside timm's names of the same"""

from __future__ import annotations

from unshaken.interop.name_rules import rules

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
