"""Boltzmann machines and the bimodal autoencoder against what can be summed by hand."""

from itertools import product

import pytest
import torch

from xmkern.models import create_model
from xmkern.models.parts.boltzmann import RestrictedBoltzmann, Units


def machine(units: Units) -> RestrictedBoltzmann:
    torch.manual_seed(0)
    layer = RestrictedBoltzmann(4, 3, units).double()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.7)
    layer.begin(torch.rand(8, 4, dtype=torch.double))
    return layer


def states(count: int) -> torch.Tensor:
    return torch.tensor(list(product((0.0, 1.0), repeat=count)), dtype=torch.double)


@pytest.mark.parametrize("units", ["bernoulli", "gaussian", "words"])
def test_the_free_energy_is_the_sum_over_all_hidden_states(units: Units) -> None:
    layer, v = machine(units), torch.rand(5, 4, dtype=torch.double)
    hidden = states(3)
    each = torch.stack([layer.energy(v, h.expand(5, -1)) for h in hidden])
    torch.testing.assert_close(layer.free_energy(v), -each.neg().logsumexp(0))
    # The hidden units' probabilities are their means under exp(-E).
    weights = each.neg().softmax(0)
    torch.testing.assert_close(torch.einsum("sb,sh->bh", weights, hidden), layer.up(v).sigmoid())


def test_what_is_visible_has_the_mean_that_the_energy_gives() -> None:
    layer, h = machine("bernoulli"), torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.double)
    visible = states(4)
    weights = layer.energy(visible, h.expand(16, -1)).neg().softmax(0)
    torch.testing.assert_close(weights @ visible, layer.visible_mean(layer.down(h))[0])
    layer = machine("gaussian")
    v = layer.visible_mean(layer.down(h)).requires_grad_()
    (slope,) = torch.autograd.grad(layer.energy(v, h).sum(), v)  # the mode is the mean
    torch.testing.assert_close(slope, torch.zeros_like(v))
    layer = machine("words")
    said = layer.visible_mean(layer.down(h), torch.tensor([[3.0]], dtype=torch.double))
    torch.testing.assert_close(said.sum(), torch.tensor(3.0, dtype=torch.double))


def test_the_gradient_of_contrastive_divergence_is_its_rule() -> None:
    layer, v = machine("bernoulli"), states(4)[3:9]
    torch.manual_seed(1)
    layer.divergence(v).backward()
    torch.manual_seed(1)
    other = layer.gibbs(v, 1)
    with torch.no_grad():
        products = [(x - layer.mean).T @ (layer.up(x).sigmoid() - 0.5) / len(x) for x in (v, other)]
    torch.testing.assert_close(layer.weight.grad, products[1] - products[0])
    assert not torch.equal(v, other)


def test_learning_makes_data_likely_and_the_mean_is_where_it_begins() -> None:
    torch.manual_seed(0)
    layer = RestrictedBoltzmann(6, 8)
    data = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).repeat(16, 1)
    layer.begin(data)
    torch.testing.assert_close(layer.visible_mean(layer.down(torch.full((1, 8), 0.5)))[0], data.mean(0))
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(200):
        loss = layer.divergence(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    everything = states(6).float()
    probability = layer.free_energy(everything).neg().softmax(0)
    there = (everything[:, None] == data[:2]).all(2).any(1)
    assert probability[there].sum() > 0.5  # of 64 states these are two


def test_a_missing_modality_is_inferred() -> None:
    torch.manual_seed(0)
    model = create_model("multimodal_dbm", hidden=16, joint=12, chains=8)
    pictures, words = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randint(5, 2048, (4, 6))
    model.loss({"pictures": pictures, "words": words}).backward()
    features = model.features(pictures)
    read = model(None, torch.ones(4, 2048))
    assert read.features.shape == features.shape
    assert read.joint.shape == (4, 12)
    assert model(features, None).words.shape == (4, 2048)
    assert model.similarity(pictures, words).shape == (4, 4)
    with pytest.raises(ValueError, match="features and words"):
        model(None, None)


def test_either_modality_alone_rebuilds_both() -> None:
    torch.manual_seed(0)
    model = create_model("bimodal_ae").eval()
    pictures, words = torch.rand(4, 3, 32, 32) * 2 - 1, torch.randint(5, 2048, (4, 6))
    alone = model(None, words)
    hidden = model(pictures, words, torch.tensor([[False, True]]).expand(4, -1))
    torch.testing.assert_close(alone.picture, hidden.picture)
    assert model.imagine(words).shape == (4, 3, 8, 8)
    assert model(pictures, None).text.shape == (4, 2048)
    with pytest.raises(ValueError, match="pictures and words"):
        model(None, None)


@pytest.mark.parametrize("name", ["rbm", "multimodal_dbm"])
def test_evaluation_leaves_a_machine_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, **({"hidden": (8,)} if name == "rbm" else {"hidden": 8, "joint": 6, "chains": 4}))
    batch = {"pictures": torch.rand(4, 3, 32, 32) * 2 - 1, "words": torch.randint(5, 2048, (4, 6))}
    for _ in range(2):  # before it has begun, and after
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        assert model.eval().loss(batch).isfinite()
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[key]), key
        model.train().loss(batch)
        assert model.begun


def test_words_that_are_all_but_impossible_have_a_logarithm() -> None:
    torch.manual_seed(0)
    model = create_model("multimodal_dbm").eval()
    model.text.lower.visible_bias.data[7] = -110  # whose exponential is 0 in float32
    pictures, words = torch.rand(2, 3, 64, 64) * 2 - 1, torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0]])
    assert model.similarity(pictures, words).isfinite().all()
    assert model.loss({"pictures": pictures, "words": words}).isfinite()
