"""Systems that draw: bounds, guidance, inpainting, penalties, and two players that do not touch each other."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.test_registry import Watch
from xmkern.functional import q_sample
from xmkern.models import create_model
from xmkern.models.glide import hidden_square
from xmkern.models.parts.adversarial import gradient_norms, held
from xmkern.models.parts.diffusion import Guided, hybrid_loss, learned_range, noise_of_velocity, variational_bound

SMALL: dict[str, Any] = {"size": 16, "width": 16, "multipliers": (1, 2), "attention": (1,), "head_dim": 16}


def words(*rows: list[int]) -> Tensor:
    return torch.tensor([[1, *row, 2] + [0] * (14 - len(row)) for row in rows])


def test_the_bound_is_zero_for_the_posterior_itself() -> None:
    torch.manual_seed(0)
    table = learned_range(1000, "squaredcos_cap_v2").alphas_cumprod
    pictures, noise = torch.rand(4, 3, 4, 4) * 2 - 1, torch.randn(4, 3, 4, 4)
    t = torch.tensor([1, 10, 500, 900])
    noisy, _ = q_sample(pictures, t, table, noise)
    posterior = -torch.ones_like(noise)
    bound = variational_bound(noise, posterior, noisy, pictures, t, table)
    torch.testing.assert_close(bound, torch.zeros(4), rtol=0, atol=1e-3)
    # With beta for the variance: (r + log 1/r - 1) / 2 for the ratio r of both, in bits.
    bound = variational_bound(noise, -posterior, noisy, pictures, t, table)
    before = table[t - 1]
    ratio = (1 - before) / (1 - table[t])
    torch.testing.assert_close(bound, (ratio - ratio.log() - 1) / 2 / math.log(2), rtol=1e-2, atol=1e-4)


def test_the_bound_teaches_the_variance_alone() -> None:
    table = learned_range(1000, "squaredcos_cap_v2").alphas_cumprod
    pictures, noise, t = torch.zeros(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([0, 700])
    noisy, _ = q_sample(pictures, t, table, noise)
    output = torch.cat([noise, torch.zeros_like(noise)], 1).requires_grad_()
    hybrid_loss(output, noisy, pictures, noise, t, table).backward()
    assert output.grad is not None
    assert not output.grad[:, :3].any()
    assert output.grad[:, 3:].abs().amin(0).amax() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_table_of_noise(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    scheduler = learned_range(1000, "squaredcos_cap_v2")
    table, t = scheduler.alphas_cumprod, torch.tensor([0, 5, 300, 999])
    pictures, noise = torch.rand(4, 3, 4, 4) * 2 - 1, torch.randn(4, 3, 4, 4)
    output = torch.randn(4, 6, 4, 4) / 10
    half = [x.to(dtype) for x in (output, pictures, noise)]
    loss = hybrid_loss(half[0], half[1], half[1], half[2], t, table)
    expected = hybrid_loss(output, pictures, pictures, noise, t, table)
    torch.testing.assert_close(loss.float(), expected, rtol=1e-2, atol=0)
    found = noise_of_velocity(half[0], half[1], t, table)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), noise_of_velocity(output, pictures, t, table), rtol=2e-2, atol=2e-2)
    guided = Guided(lambda x, t: half[0], scheduler, lambda x, t: -(x.float() ** 2).flatten(1).sum(1), 1.0)
    for time in (1, 5, 999):
        guided(half[1], torch.tensor(time))
        shifted = guided.shift(0, torch.tensor(time), half[1])
        assert shifted is not None
        assert shifted.dtype == dtype
        assert shifted.isfinite().all()


def test_models_draw_in_float64() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for name in ("gan", "wgan_gp"):
            assert create_model(name).double().eval().draw(2, seed=1).dtype == torch.float64
        model, x, t = (
            create_model("ddpm", **SMALL).double().eval(),
            torch.randn(2, 3, 16, 16).double(),
            torch.tensor([5, 9]),
        )
        assert model(x, t).noise.dtype == model.classifier(x, t).dtype == torch.float64


def test_samples_come_from_the_kernels_and_the_seed() -> None:
    torch.manual_seed(0)
    model = create_model("ddpm", **SMALL).eval()
    with torch.no_grad(), Watch() as watch:
        drawn = model.draw(2, seed=3, steps=4)
    assert "diffusion_step_into" in watch.seen
    with torch.no_grad():
        assert torch.equal(drawn, model.draw(2, seed=3, steps=4))
        assert not torch.equal(drawn, model.draw(2, seed=4, steps=4))


def test_a_classifier_steers_samples_to_its_class() -> None:
    torch.manual_seed(0)
    model = create_model("ddpm", **SMALL).eval()

    class Dark(nn.Module):
        """Class 1 is dark, class 0 bright."""

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], 1) * 100

    model.classifier = Dark()
    with torch.no_grad():
        bright, dark = model.draw(2, seed=0, steps=8, groups=torch.tensor([0, 1]), scale=20.0).mean((1, 2, 3))
        unguided = model.draw(2, seed=0, steps=8).mean((1, 2, 3))
    assert bright > unguided[0]
    assert dark < unguided[1]
    with pytest.raises(ValueError, match="classes"):
        create_model("ddpm", **SMALL, classes=0).draw(1, groups=torch.tensor([0]))


@pytest.mark.parametrize("name", ["ddpm", "glide"])
def test_a_classifier_steers_in_inference_mode_too(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, **SMALL).eval()
    judge = create_model("ddpm", **SMALL).eval().classifier

    def draw() -> Tensor:
        """What is given is made here, so in inference mode where that is."""
        if name == "ddpm":
            return model.draw(2, steps=3, groups=torch.tensor([0, 1]))
        return model.draw(words([9], [10]), steps=3, log_probability=lambda x, t: judge(x, t).log_softmax(1)[:, 0])

    expected = draw()
    with torch.inference_mode():
        torch.testing.assert_close(draw(), expected)


@pytest.mark.parametrize("name", ["ddpm", "glide"])
def test_samples_are_drawn_where_the_model_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model(name, **SMALL).to("meta")
    given: dict[str, Any] = {}
    monkeypatch.setattr(f"xmkern.models.{name}.sample", lambda *_, **settings: given.update(settings))
    model.draw(2 if name == "ddpm" else words([9]).to("meta"))
    assert given["device"].type == "meta"


@pytest.mark.parametrize("name", ["attngan", "dalle", "ddpm", "df_gan", "gan", "glide", "rbm", "wgan_gp"])
def test_of_nothing_no_pictures_are_drawn(name: str) -> None:
    model = create_model(name).eval()
    given = 0 if name in ("ddpm", "gan", "rbm", "wgan_gp") else torch.zeros(0, 16, dtype=torch.long)
    settings: dict[str, Any] = {"steps": 2} if name in ("ddpm", "glide") else {}
    steered = [{"groups": torch.zeros(0, dtype=torch.long)}] if name == "ddpm" else []
    with torch.no_grad():
        for more in ({}, *steered):
            assert model.draw(given, 1, **settings, **more).shape == (0, 3, 32, 32)


def test_glide_reads_words_and_what_is_known() -> None:
    torch.manual_seed(0)
    model = create_model("glide", **SMALL).eval()
    for p in model.parameters():  # nothing may hide behind weights that begin at zero
        p.data += 0.02 * torch.randn_like(p)
    x, known = torch.randn(2, 2, 3, 16, 16)
    t, mask = torch.tensor([5, 500]), torch.ones(2, 1, 16, 16)
    one, other, none = words([9, 10], [9, 10]), words([9, 11], [9, 10]), torch.zeros(2, 16, dtype=torch.long)
    with torch.no_grad():
        first = model(x, t, one).noise
        differs = [(model(x, t, given).noise - first).abs().amax((1, 2, 3)) > 1e-6 for given in (other, none)]
        assert differs[0].tolist() == [True, False]
        assert differs[1].all()
        assert not torch.equal(model(x, t, one, known, mask).noise, first)
        assert torch.equal(model(x, t, one, known, 0 * mask).noise, first)
        drawn = model.draw(one, 1, steps=3)
        assert not torch.equal(drawn, model.draw(other, 1, steps=3)[[0, 0]])
        steered = model.draw(one, 1, steps=3, log_probability=lambda x, t: 500 * x.mean((1, 2, 3)))
    assert (steered.mean((1, 2, 3)) > drawn.mean((1, 2, 3))).all()


def test_what_is_hidden_is_one_square() -> None:
    torch.manual_seed(0)
    mask = hidden_square(torch.zeros(50, 3, 32, 32))
    hidden = 1 - mask[:, 0]
    rows, columns = hidden.amax(2).sum(1), hidden.amax(1).sum(1)
    torch.testing.assert_close(rows * columns, hidden.sum((1, 2)))
    assert ((rows - columns).abs() <= 1).all()
    assert rows.amin() >= 7
    assert rows.amax() <= 25


def test_each_player_learns_from_its_own_loss() -> None:
    torch.manual_seed(0)
    judge, x = nn.Linear(3, 1), torch.randn(2, 3, requires_grad=True)
    held(judge, x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in judge.parameters())


def test_the_penalty_of_a_linear_critic_is_its_slope() -> None:
    critic = nn.Linear(12, 1)
    x = torch.randn(5, 3, 2, 2, requires_grad=True)
    norms = gradient_norms(critic(x.flatten(1))[:, 0], x)
    torch.testing.assert_close(norms, critic.weight.norm().expand(5))
    norms.sum().backward()
    assert critic.weight.grad is not None
    torch.testing.assert_close(critic.weight.grad, 5 * critic.weight.detach() / critic.weight.detach().norm())


def test_the_generator_waits_for_its_critic() -> None:
    torch.manual_seed(0)
    model, batch = create_model("wgan_gp", width=8), {"pictures": torch.zeros(2, 3, 32, 32)}
    turns = []
    for _ in range(4):
        model.zero_grad()
        model.loss(batch).backward()
        turns.append(model.generator[0].weight.grad is not None)
        assert model.critic[-2].weight.grad is not None
    assert turns == [True, False, True, False]


def test_the_critics_calls_count_in_training_alone() -> None:
    torch.manual_seed(0)
    model, batch = create_model("wgan_gp", width=8), {"pictures": torch.zeros(2, 3, 32, 32)}
    model.loss(batch)
    model.eval()
    for _ in range(2):
        model.zero_grad()
        model.loss(batch).backward()
        assert model.generator[0].weight.grad is not None
    assert model.step == 1


@pytest.mark.parametrize("name", ["df_gan", "wgan_gp"])
def test_a_penalty_needs_no_gradient_of_the_loss(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, width=8).eval()
    batch = {"pictures": torch.rand(3, 3, 32, 32), "words": words([9], [10], [11]), "ids": torch.arange(3)}
    torch.manual_seed(1)
    expected = model.loss(batch)
    torch.manual_seed(1)
    with torch.no_grad():
        found = model.loss(batch)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach())


def test_df_gan_fuses_words_in_every_block() -> None:
    torch.manual_seed(0)
    model = create_model("df_gan", width=4).eval()
    for p in model.generator.parameters():  # at first the affine maps leave all as it is
        p.data += 0.1 * torch.randn_like(p)
    one, other = words([9, 10]), words([9, 11])
    with torch.no_grad():
        assert not torch.equal(model.draw(one, 1), model.draw(other, 1))
        assert not torch.equal(model.draw(one, 1), model.draw(one, 2))
