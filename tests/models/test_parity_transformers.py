"""Systems of one stream and of two compute what their counterparts of transformers compute."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.twins import Twin, assert_same, inputs
from xmkern.models import create_model

transformers = pytest.importorskip("transformers")

BERT: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 12, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
OURS: dict[str, Any] = {"vocabulary": 99, "length": 12, "dim": 32, "heads": 4, "hidden": 64, "dropout": 0.0}


def regions() -> tuple[Tensor, Tensor]:
    return torch.randn(3, 6, 20), torch.rand(3, 6, 4)


def visualbert() -> Twin:
    config = transformers.VisualBertConfig(**BERT, num_hidden_layers=2, visual_embedding_dim=20, pad_token_id=0)
    theirs = transformers.VisualBertForPreTraining(config)
    ours = create_model("visualbert", "paper", **OURS, depth=2, features=20, answers=7)
    _, words, there = inputs()
    features, boxes = regions()

    def outputs() -> tuple[tuple[Tensor, Tensor], ...]:
        a = theirs(
            input_ids=words, attention_mask=there.long(), visual_embeds=features,
            visual_attention_mask=torch.ones(3, 6).long(),
        )  # fmt: skip
        b = ours(features, boxes, words)
        text = a.prediction_logits[:, :12]
        return (text[there], ours.word_head(b.words)[there]), (a.seq_relationship_logits, ours.match_head(b.pooled))

    return Twin(theirs, ours, outputs)


def lxmert() -> Twin:
    config = transformers.LxmertConfig(
        **BERT, l_layers=2, r_layers=1, x_layers=2, visual_feat_dim=20, num_qa_labels=7, num_object_labels=8,
        num_attr_labels=5,
    )  # fmt: skip
    theirs = transformers.LxmertForPreTraining(config)
    for table in theirs.lxmert.embeddings.children():
        table.padding_idx = None  # they keep gradients from the first place and segment
    ours = create_model(
        "lxmert", "paper", **OURS, word_depth=2, region_depth=1, cross_depth=2, features=20, answers=7, classes=8,
        attributes=5,
    )  # fmt: skip
    _, words, there = inputs()
    features, boxes = regions()

    def outputs() -> tuple[tuple[Tensor, Tensor], ...]:
        a = theirs(
            input_ids=words, attention_mask=there.long(), visual_feats=features, visual_pos=boxes,
            output_hidden_states=True,
        )  # fmt: skip
        b = ours(features, boxes, words)
        kinds = theirs.obj_predict_head(a.vision_hidden_states[-1])
        return (
            (a.prediction_logits[there], ours.word_head(b.words)[there]),
            (a.cross_relationship_score, ours.match_head(b.pooled)),
            (a.question_answering_score, ours.answer_head(b.pooled)),
            *zip(kinds.values(), ours.region_head(b.regions), strict=True),
        )

    return Twin(theirs, ours, outputs)


def align() -> Twin:
    vision = {"image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.9, "hidden_dim": 160}
    config = transformers.AlignConfig(
        text_config={**BERT, "num_hidden_layers": 2}, vision_config=vision, projection_dim=160
    )
    theirs = transformers.AlignModel(config)
    for norm in theirs.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.running_mean, -0.1, 0.1), torch.nn.init.uniform_(norm.running_var, 0.01, 0.1)
    sizes = {name: value for name, value in OURS.items() if name != "depth"}
    ours = create_model("align", "paper", **sizes, width=0.5, depth=0.9, text_depth=2)
    pictures, words, there = inputs(64)

    def outputs() -> tuple[tuple[Tensor, Tensor], ...]:
        a = theirs(input_ids=words, attention_mask=there.long(), pixel_values=pictures)
        b = ours(pictures, words)
        logits = b.text @ b.picture.T / b.temperature
        return (a.image_embeds, b.picture), (a.text_embeds, b.text), (a.logits_per_text, logits)

    return Twin(theirs, ours, outputs)


@pytest.mark.parametrize("make", [visualbert, lxmert, align], ids=lambda make: make.__name__)
def test_same_weights_give_the_same_outputs_and_gradients(make: Callable[[], Twin]) -> None:
    assert_same(make)
