"""Tiny models of transformers with random weights, and inputs with padding."""

import torch
import transformers as hf

B, L = 3, 7
TEXT = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 40,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
DECODER = {
    "vocab_size": 50, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 40,
}  # fmt: skip


def words(batch=B, length=L, side="right"):
    """Token ids [B, L] and a mask [B, L] under which the first sample is whole and the others are padded."""
    lengths = torch.tensor([length, length - 3, length - 1])[:batch, None]
    places = torch.arange(length)
    mask = places < lengths if side == "right" else places >= length - lengths
    return {"input_ids": torch.randint(3, 50, (batch, length)), "attention_mask": mask.long()}


def pictures(channels=3, size=16):
    return torch.randn(B, channels, size, size)


def pair():
    return {**words(), "pixel_values": pictures()}


def bert():
    return hf.BertModel, hf.BertConfig(**TEXT), words()


def bert_decoder():
    return hf.BertLMHeadModel, hf.BertConfig(**TEXT, is_decoder=True), words()


def vit():
    return hf.ViTModel, hf.ViTConfig(**VISION), {"pixel_values": pictures()}


def clip():
    config = hf.CLIPConfig(text_config={**TEXT, "eos_token_id": 2}, vision_config=VISION, projection_dim=8)
    return hf.CLIPModel, config, pair()


def siglip():
    return hf.SiglipModel, hf.SiglipConfig(text_config=TEXT, vision_config=VISION), pair()


def chinese_clip():
    config = hf.ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)
    return hf.ChineseCLIPModel, config, pair()


def align_text():
    return hf.AlignTextModel, hf.AlignTextConfig(**TEXT), words()


def t5():
    config = hf.T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    return hf.T5Model, config, {**words(), "decoder_input_ids": torch.randint(3, 50, (B, 5))}


def bart():
    return hf.BartModel, hf.BartConfig(**DECODER), {**words(), "decoder_input_ids": torch.randint(3, 50, (B, 5))}


def gpt2():
    return hf.GPT2Model, hf.GPT2Config(vocab_size=50, n_positions=40, n_embd=16, n_layer=2, n_head=2), words()


def mistral():
    """Four heads share two of keys, and a window slides."""
    config = hf.MistralConfig(**{**TEXT, "num_attention_heads": 4}, num_key_value_heads=2, sliding_window=4)
    return hf.MistralModel, config, words()


def swin():
    config = hf.SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[2], num_heads=[2], window_size=4)
    return hf.SwinModel, config, {"pixel_values": pictures()}


def x_clip():
    vision = {
        **VISION,
        "mit_hidden_size": 16,
        "mit_intermediate_size": 24,
        "mit_num_attention_heads": 2,
        "num_frames": 2,
    }
    config = hf.XCLIPConfig(
        text_config={**TEXT, "hidden_size": 16, "eos_token_id": 2}, vision_config=vision, projection_dim=16,
        prompt_layers=1, prompt_num_attention_heads=2,
    )  # fmt: skip
    return hf.XCLIPModel, config, {**words(), "pixel_values": torch.randn(B, 2, 3, 16, 16)}


def bridge_tower():
    wide = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 24}
    config = hf.BridgeTowerConfig(
        text_config={**TEXT, **wide}, vision_config={**VISION, **wide}, **wide, num_hidden_layers=1
    )
    return hf.BridgeTowerModel, config, {**pair(), "pixel_mask": torch.ones(B, 16, 16, dtype=torch.long)}


def detr():
    backbone = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], out_features=["stage1"])
    config = hf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone,
        **{name: value for name, value in DECODER.items() if name not in ("vocab_size", "max_position_embeddings")},
        num_queries=5,
    )  # fmt: skip
    mask = torch.ones(B, 16, 16, dtype=torch.long)
    mask[1, :, 8:] = 0
    return hf.DetrModel, config, {"pixel_values": pictures(), "pixel_mask": mask}


def visual_bert():
    visual = torch.ones(B, 4, dtype=torch.long)
    visual[0, 2:] = 0
    inputs = {"visual_embeds": torch.randn(B, 4, 12), "visual_attention_mask": visual}
    return hf.VisualBertModel, hf.VisualBertConfig(**TEXT, visual_embedding_dim=12), {**words(), **inputs}


def vilt():
    config = hf.ViltConfig(**{**TEXT, **VISION}, modality_type_vocab_size=2)
    return hf.ViltModel, config, {**pair(), "pixel_mask": torch.ones(B, 16, 16, dtype=torch.long)}


def lxmert():
    config = hf.LxmertConfig(
        vocab_size=50, hidden_size=16, num_attention_heads=2, intermediate_size=24, l_layers=1, x_layers=1, r_layers=1,
        visual_feat_dim=12, max_position_embeddings=40,
    )  # fmt: skip
    visual = {"visual_feats": torch.randn(B, 4, 12), "visual_pos": torch.rand(B, 4, 4)}
    visual["visual_attention_mask"] = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    return hf.LxmertModel, config, {**words(), **visual}


def git():
    return hf.GitForCausalLM, hf.GitConfig(**TEXT, vision_config=VISION, eos_token_id=49), pair()


def blip_config():
    text = {**TEXT, "encoder_hidden_size": 16, "bos_token_id": 1, "sep_token_id": 2, "pad_token_id": 0}
    return hf.BlipConfig(text_config=text, vision_config=VISION, projection_dim=16, image_text_hidden_size=16)


def blip():
    """A text that looks at a picture."""
    return hf.BlipForConditionalGeneration, blip_config(), pair()


def blip_retrieval():
    return hf.BlipForImageTextRetrieval, blip_config(), pair()


def flava():
    config = hf.FlavaConfig(
        text_config=TEXT, image_config=VISION, multimodal_config={**TEXT}, hidden_size=16, projection_dim=16,
    )  # fmt: skip
    return hf.FlavaModel, config, pair()


def timesformer():
    config = hf.TimesformerConfig(**VISION, num_frames=2)
    return hf.TimesformerModel, config, {"pixel_values": torch.randn(B, 2, 3, 16, 16)}


def image_gpt():
    config = hf.ImageGPTConfig(
        vocab_size=51, n_positions=40, n_embd=16, n_layer=2, n_head=2, scale_attn_by_inverse_layer_idx=True
    )
    return hf.ImageGPTModel, config, words()


CHOOSING = [
    bert, bert_decoder, vit, clip, siglip, chinese_clip, align_text, t5, bart, gpt2, mistral, swin, x_clip,
    bridge_tower, detr,
]  # fmt: skip
EAGER = [visual_bert, vilt, lxmert, git, blip, blip_retrieval, flava, timesformer, image_gpt]


def build(make):
    """A model in evaluation mode, eager, and its inputs; the same at every call."""
    torch.manual_seed(0)
    cls, config, inputs = make()
    model = cls._from_config(config, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        with torch.no_grad():  # so that norms, biases and positions count
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() == 1 or "position" in name else 0.1))
    return model, inputs
