"""Searches find what they are to find; with caches as without; as transformers' own where it has the same decoder."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from xmkern.data.words import BEGIN, END, PAD
from xmkern.models import create_model, load_reference
from xmkern.models.parts.generation import Reader, beam, begin, greedy, nucleus


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = create_model("gpt", vocabulary=17, length=40, dim=32, depth=3, heads=4, band=5).eval()
    # Far from the even distribution that small weights give, so that searches differ.
    torch.nn.init.normal_(model.words.word.weight, std=0.6)
    return model


def without_cache(model: torch.nn.Module) -> Reader:
    """The same decoder, which reads all from the start at each step."""

    def read(words: Tensor, state: dict[str, Tensor]) -> Tensor:
        state["read"] = torch.cat([state["read"], words], 1) if "read" in state else words
        return model(state["read"]).logits[:, -1]

    return Reader(read, {})


SEARCHES = {
    "greedy": greedy,
    "beam": lambda *args, **given: beam(*args, beams=3, **given),
    "nucleus": lambda *args, **given: nucleus(*args, generator=torch.Generator().manual_seed(3), **given),
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_a_cache_changes_nothing(model: torch.nn.Module, search) -> None:
    words = torch.randint(5, 17, (4, 3))
    found = search(model.reader(), words, length=20)
    assert torch.equal(found, search(without_cache(model), words, length=20))
    assert (found != PAD).sum() > 20


def test_the_logits_of_a_cache_are_those_of_the_whole_sentence(model: torch.nn.Module) -> None:
    words = torch.randint(5, 17, (2, 20))
    expected, reader = model(words).logits, model.reader()
    for start, end in ((0, 7), (7, 8), (8, 20)):
        torch.testing.assert_close(reader.step(words[:, start:end]), expected[:, end - 1], rtol=1e-4, atol=1e-5)


def chain(logits: Tensor) -> Reader:
    """A decoder that looks at the last word alone: logits [V, V]."""
    return Reader(lambda words, state: logits[words[:, -1]], {})


def test_a_beam_finds_what_greed_passes_by() -> None:
    # BEGIN -> 5 (0.6) or 6 (0.4); 5 -> END 0.3 or 6 others; 6 -> END 0.9: 6 END has 0.36, 5 END 0.18.
    chances = torch.full((12, 12), 1e-9)
    chances[BEGIN, 5], chances[BEGIN, 6] = 0.6, 0.4
    chances[5, 5:12], chances[5, END] = 0.1, 0.3
    chances[6, END], chances[6, 5] = 0.9, 0.1
    reader = chain(chances.log())
    assert greedy(reader, begin(1), length=5).tolist() == [[5, END]]
    assert beam(reader, begin(1), length=5, beams=2).tolist() == [[6, END, PAD, PAD, PAD]]


def test_a_beam_as_wide_as_all_sentences_finds_the_best_of_all() -> None:
    torch.manual_seed(1)
    logits = torch.randn(8, 8)
    logits[:, [PAD, BEGIN, 3, 4]] = -30
    chances = F.log_softmax(logits, -1)
    real = (5, 6, 7)
    every = [[END], *([w, END] for w in real), *([w, v, u] for w in real for v in real for u in (END, *real))]
    for penalty in (0.0, 1.0, 2.0):
        worth = [sum(chances[a, b] for a, b in zip([BEGIN, *s], s, strict=False)) / len(s) ** penalty for s in every]
        best = every[int(torch.stack(worth).argmax())]
        found = beam(chain(logits), begin(1), length=3, beams=30, length_penalty=penalty)[0].tolist()
        assert found == best + [PAD] * (3 - len(best)), penalty


def test_a_nucleus_is_the_fewest_words_that_have_the_share() -> None:
    chances = torch.tensor([0.5, 0.3, 0.15, 0.05])
    reader = Reader(lambda words, state: chances.log().expand(len(words), 4), {})
    generator = torch.Generator().manual_seed(0)
    for share, expected in ((0.4, {0}), (0.5, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        drawn = nucleus(reader, begin(4000), length=1, share=share, end=-1, generator=generator)[:, 0]
        assert set(drawn.tolist()) == expected, share
    kept = nucleus(reader, begin(4000), length=1, share=0.6, end=-1, generator=generator)[:, 0]
    assert (kept == 0).float().mean().item() == pytest.approx(0.5 / 0.8, abs=0.03)
    cold = nucleus(reader, begin(4000), length=1, share=1.0, temperature=0.05, end=-1, generator=generator)
    assert (cold == 0).float().mean() > 0.99
    with pytest.raises(ValueError, match="share"):
        nucleus(reader, begin(1), length=1, share=0.0)


@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (4, 1.0), (3, 0.0), (5, 2.0)])
def test_as_transformers_generates(beams: int, penalty: float) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(beams)
    config = transformers.GPT2Config(
        vocab_size=29, n_positions=40, n_embd=32, n_layer=2, n_head=4, bos_token_id=BEGIN, eos_token_id=END,
        pad_token_id=PAD, initializer_range=0.5,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config).eval()
    ours = create_model("gpt", vocabulary=29, length=40, dim=32, depth=2, heads=4, band=0).eval()
    load_reference(ours, theirs.transformer.state_dict())
    words = torch.randint(5, 29, (6, 4))
    expected = theirs.generate(
        words, attention_mask=torch.ones_like(words), max_new_tokens=12, num_beams=beams, do_sample=False,
        length_penalty=penalty, early_stopping=False,
    )[:, 4:]  # fmt: skip
    if beams == 1:
        found = greedy(ours.reader(), words, length=12)
    else:
        found = beam(ours.reader(), words, length=12, beams=beams, length_penalty=penalty)
    # Behind the end theirs stands the end again, for a padding of 0 is taken for none.
    ended = (expected == END).cumsum(1) - (expected == END).long() > 0
    expected, found = (F.pad(x, (0, 12 - x.shape[1])) for x in (expected.masked_fill(ended, PAD), found))
    assert torch.equal(found, expected)


def test_of_nothing_and_for_no_words_nothing_is_written(model: torch.nn.Module) -> None:
    for search in SEARCHES.values():
        assert search(model.reader(), torch.zeros(0, 3, dtype=torch.long), length=4).shape == (0, 4)
        assert search(model.reader(), torch.full((2, 3), 7), length=0).shape == (2, 0)


def test_no_temperature_and_no_place_are_refused(model: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="temperature"):
        nucleus(model.reader(), begin(1), length=3, temperature=0.0)
    with pytest.raises(ValueError, match="40 places"):
        greedy(model.reader(), torch.full((2, 39), 7), length=4, end=-1)
