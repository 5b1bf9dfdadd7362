"""Clips do what they say, visual words are centres of a tree, and VideoBERT sees what it is shown."""

import pytest
import torch

from xmkern.data.actions import ACTIONS, compose
from xmkern.models import create_model
from xmkern.models.parts.visual_words import VisualWords, stretch_features

pytest.importorskip("sklearn")


def test_a_clip_does_what_its_action_says() -> None:
    pictures = torch.ones(len(ACTIONS), 3, 64, 64)
    pictures[:, :, 16:48, 16:48] = -1
    clips = compose(pictures, torch.arange(len(ACTIONS)), frames=5, generator=torch.Generator().manual_seed(0))
    assert clips.shape == (8, 5, 3, 32, 32)
    ink = (1 - clips).mean(2)
    total = ink.sum((2, 3))
    place = torch.linspace(-1, 1, 32)
    right, down = ((ink.sum(axis) * place).sum(-1) / total for axis in (2, 3))
    for action, drift, where in (("right", right, 1), ("left", -right, 0), ("down", down, 3), ("up", -down, 2)):
        assert drift[where, -1] - drift[where, 0] > 0.3, action
    for bigger, smaller in ((4, 5), (6, 7)):
        assert total[bigger, -1] > 1.5 * total[bigger, 0]
        assert total[smaller, -1] < total[smaller, 0] / 1.5
    with pytest.raises(ValueError, match="frames"):
        compose(pictures, torch.arange(8), frames=1)


def test_visual_words_tell_clusters_apart_and_name_a_cluster_by_its_branch() -> None:
    torch.manual_seed(0)
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [20.0, 0.0], [20.0, 1.0]])
    words = VisualWords((corners[:, None] + 0.01 * torch.randn(4, 30, 2)).flatten(0, 1), branches=2, levels=2)
    assert len(words) == 4
    found = words(corners[None])
    assert found.shape == (1, 4)
    assert sorted(found.flatten().tolist()) == [0, 1, 2, 3]
    assert found[0, 0] // 2 == found[0, 1] // 2 != found[0, 2] // 2


def test_features_are_the_ink_of_a_frame_and_of_the_next() -> None:
    clips = torch.stack([torch.ones(3, 32, 32), -torch.ones(3, 32, 32)])[None]
    features = stretch_features(clips)
    torch.testing.assert_close(features, torch.cat([torch.zeros(1, 1, 64), torch.full((1, 1, 64), 2.0)], -1))


def test_what_is_not_shown_is_not_seen() -> None:
    torch.manual_seed(0)
    model = create_model("videobert").eval()
    codes, words = torch.tensor([[3, 4, 5]]), torch.tensor([[1, 7, 8, 2, 0]])
    shown = torch.ones(1, 8, dtype=torch.bool)
    shown[:, 5:] = False
    alone = model(codes, words, shown)
    torch.testing.assert_close(model(codes + 1, words, shown).words, alone.words)
    assert not torch.allclose(model(codes + 1, words).words, model(codes, words).words)
    with pytest.raises(IndexError):
        model(codes + 144, words)


def test_a_video_goes_on_where_its_own_sentence_ends() -> None:
    torch.manual_seed(0)
    model = create_model("videobert").eval()
    codes, words = torch.tensor([[3, 4, 5], [6, 7, 8]]), torch.tensor([[1, 7, 2, 0, 0], [1, 7, 8, 9, 2]])
    both, alone = model(codes, words), model(codes[:1], words[:1, :3])
    torch.testing.assert_close(both.codes[:1], alone.codes)
    torch.testing.assert_close(both.pooled[:1], alone.pooled)


def test_visual_words_do_not_depend_on_the_batch_and_all_have_a_subtree() -> None:
    generator = torch.Generator().manual_seed(0)
    features = 100 + 1e-3 * torch.randn(60, 128, generator=generator)  # near one another, and far from 0
    words = VisualWords(features, branches=4, levels=3)
    alone = torch.cat([words(row[None]) for row in features])
    assert torch.equal(words(features), alone)
