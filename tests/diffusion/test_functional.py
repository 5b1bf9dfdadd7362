"""Sampling steps, training noise and dynamic thresholding against their references."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.testing import assert_close

import xmkern.functional as xf
from xmkern.ops.registry import ops
from xmkern.testing import assert_matches_reference, strategies, threads

SETTINGS = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], max_examples=100)
STEP = xf.StepCoefficients(alpha=0.8, sigma=0.6, sample=0.3, original=0.5, epsilon=0.2, noise=0.4)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("name", ["diffusion_step", "dynamic_threshold", "q_sample"])
def test_the_kernels_match_the_reference(capability, name):
    @SETTINGS
    @given(getattr(strategies, name)())
    def check(inputs):
        def call(backend):
            # None: what is not wanted
            return lambda **given: [x for x in getattr(xf, name)(**given, backend=backend) if x is not None]

        assert_matches_reference(call("cpu"), inputs, reference=call("reference"))

    check()


def many(**more):
    """A step of everything at once, over several tasks, stretches and vectors."""
    x, output = normal(3, 4, 101, 67), normal(6, 8, 101, 67, seed=1)
    mask = (normal(3, 1, 101, 67, seed=2) > 0).float()
    coefficients = STEP._replace(history=(0.5, -0.2), known=0.7, known_noise=0.6, churn=0.1, log_variances=(-3.0, -1.0))
    return {
        "sample": x,
        "model_output": output,
        "coefficients": coefficients,
        "history": [normal(3, 4, 101, 67, seed=3), normal(3, 4, 101, 67, seed=4)],
        "seed": 11,
        "offset": 5,
        "variance": "learned_range",
        "guidance": 3.0,
        "guidance_rescale": 0.7,
        "clip": xf.DynamicThreshold(0.95, 3.0),
        "known": normal(1, 4, 101, 67, seed=5),
        "mask": mask,
        **more,
    }


@pytest.mark.parametrize("clip", [None, 1.0, xf.DynamicThreshold(0.95, 3.0)])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "flow"])
def test_everything_at_once(capability, prediction, clip):
    assert_matches_reference("diffusion_step", many(prediction=prediction, clip=clip), backend="cpu")


def test_results_do_not_depend_on_threads(capability):
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            x0, t, table = normal(9, 3, 64, 64), torch.arange(9), torch.linspace(0.99, 0.1, 9)
            noised = xf.q_sample(x0, t, table, seed=3, target="v", backend="cpu")
            results.append((*xf.diffusion_step(**many(), backend="cpu"), *noised))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_results_are_those_of_their_samples(capability, dtype):
    """What is so large is written past the caches; samples of odd sizes are not all aligned."""
    x, m = (normal(4, 3, 545, 545, seed=i, dtype=dtype) for i in range(2))
    t, table, elements = torch.arange(4), torch.linspace(0.99, 0.1, 4), x[0].numel()
    whole = (*xf.diffusion_step(x, m, STEP, seed=2, clip=1.0), *xf.q_sample(x, t, table, seed=2))
    for b in range(4):
        one, noise = slice(b, b + 1), {"seed": 2, "offset": b * elements}
        parts = xf.diffusion_step(x[one], m[one], STEP, clip=1.0, **noise), xf.q_sample(x[one], t[one], table, **noise)
        assert all(torch.equal(a[one], c) for a, c in zip(whole, (*parts[0], *parts[1]), strict=True))


def test_the_posterior_is_the_surveys():
    """Of Ho et al. (2020), in float64."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alphas, bars = 1 - betas, (1 - betas).cumprod(0)
    x0, eps, z = normal(2, 3, 8, 8).double(), normal(2, 3, 8, 8, seed=1).double(), normal(2, 3, 8, 8, seed=2).double()
    for t in (1, 500, 999):
        x = bars[t].sqrt() * x0 + (1 - bars[t]).sqrt() * eps
        mean = (alphas[t].sqrt() * (1 - bars[t - 1]) * x + bars[t - 1].sqrt() * betas[t] * x0) / (1 - bars[t])
        variance = (1 - bars[t - 1]) / (1 - bars[t]) * betas[t]
        coefficients = xf.StepCoefficients(
            alpha=math.sqrt(bars[t]),
            sigma=math.sqrt(1 - bars[t]),
            sample=float(alphas[t].sqrt() * (1 - bars[t - 1]) / (1 - bars[t])),
            original=float(bars[t - 1].sqrt() * betas[t] / (1 - bars[t])),
            noise=math.sqrt(variance),
        )
        got, original = xf.diffusion_step(x, eps, coefficients, noise=z)
        assert_close(got, mean + variance.sqrt() * z)
        assert_close(original, x0)
        noisy, target = xf.q_sample(x0, torch.tensor([t, t]), bars, eps)
        assert_close(noisy, x)
        assert target is eps


def test_without_guidance_there_is_nothing_to_rescale(capability):
    args = normal(2, 3, 5), normal(2, 3, 5, seed=1), STEP._replace(noise=0.0)
    want = xf.diffusion_step(*args, backend="reference")
    for backend in ("auto", "cpu", "reference"):
        for a, b in zip(xf.diffusion_step(*args, guidance_rescale=0.7, backend=backend), want, strict=True):
            assert_close(a, b)


def test_samples_may_have_no_axes_of_their_own(capability):
    x, m = 3 * normal(3), normal(6, seed=1)
    for more in {"clip": xf.DynamicThreshold(0.9, 2.0)}, {"guidance": 2.0, "guidance_rescale": 0.7}:
        given_ = x, m if "guidance" in more else m[:3], STEP._replace(noise=0.0)
        want = xf.diffusion_step(*(g[:, None] if isinstance(g, torch.Tensor) else g for g in given_), **more)
        for backend in "cpu", "reference":
            for a, b in zip(xf.diffusion_step(*given_, **more, backend=backend), want, strict=True):
                assert_close(a, b[:, 0], equal_nan=True)  # of one number there is no deviation: NaN, as of torch
    assert_close(xf.dynamic_threshold(x.double(), 0.9, 2.0).float(), xf.dynamic_threshold(x, 0.9, 2.0))


def test_a_step_without_noise_ends_at_the_original(capability):
    x0, eps = normal(2, 3, 16, 16).clamp(-1, 1), normal(2, 3, 16, 16, seed=1)
    ideal = xf.StepCoefficients(alpha=0.6, sigma=0.8, original=1.0)
    for prediction, m in {"epsilon": eps, "sample": x0, "v": 0.6 * eps - 0.8 * x0, "flow": eps - x0}.items():
        previous, original = xf.diffusion_step(0.6 * x0 + 0.8 * eps, m, ideal, prediction=prediction, clip=1.0)
        assert_close(previous, x0, rtol=1e-5, atol=1e-6)
        assert torch.equal(previous, original)
        assert original.abs().max() <= 1


def test_drawn_noise_is_that_of_philox_normal(capability):
    x, m, t, table = normal(3, 2, 40, 30), normal(3, 2, 40, 30, seed=1), torch.arange(3), torch.linspace(0.9, 0.1, 3)
    noise = xf.philox_normal(x.shape, 5, 100)
    for a, b in zip(
        xf.diffusion_step(x, m, STEP, seed=5, offset=100), xf.diffusion_step(x, m, STEP, noise=noise), strict=True
    ):
        assert torch.equal(a, b)
    noisy, target = xf.q_sample(x, t, table, seed=5, offset=100)
    assert torch.equal(target, noise)
    assert torch.equal(noisy, xf.q_sample(x, t, table, noise)[0])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_out_is_written(backend):
    x, m = normal(2, 3, 40, 40), normal(2, 3, 40, 40, seed=1)
    expected = xf.diffusion_step(x, m, STEP, seed=1, clip=1.0, backend=backend)
    out = torch.empty_like(x), torch.empty_like(x)
    got = xf.diffusion_step(x, m, STEP, seed=1, clip=1.0, out=out, backend=backend)
    assert all(a is b and torch.equal(a, c) for a, b, c in zip(got, out, expected, strict=True))
    for clip in (1.0, xf.DynamicThreshold(0.9, 2.0)):
        expected, _ = xf.diffusion_step(x, m, STEP, seed=1, clip=clip, backend=backend)
        again = x.clone()
        got = xf.diffusion_step(again, m, STEP, seed=1, clip=clip, out=(again, None), backend=backend)
        assert got[0] is again
        assert got[1] is None
        assert torch.equal(again, expected)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_dynamic_threshold_is_torch_quantile(backend):
    x0 = 3 * normal(5, 3, 32, 32)
    for ratio in (0.0, 0.37, 0.5, 0.995, 1.0):
        s = torch.quantile(x0.double().abs().flatten(1), ratio, dim=1).clamp(1, 2.5).view(-1, 1, 1, 1)
        expected = (x0.double().clamp(-s, s) / s).float()
        assert_close(xf.dynamic_threshold(x0, ratio, 2.5, backend=backend), expected, rtol=1e-6, atol=1e-6)


def test_nan_stays_in_its_place(capability):
    x, m = normal(3, 2, 9, 9), normal(3, 2, 9, 9, seed=1)
    m[1, 1, 4, 4] = torch.nan
    for got in xf.diffusion_step(x, m, STEP, seed=1, clip=1.0, backend="cpu"):
        assert torch.equal(got.isnan(), m.isnan())
    for got in xf.diffusion_step(x, m, STEP, seed=1, clip=xf.DynamicThreshold(), backend="cpu"):
        assert got.isnan().flatten(1).all(1).tolist() == [False, True, False]  # as torch.quantile has it
    m[1, 1, 4, 4] = torch.inf  # which is clipped, and has no weight of its own
    for got in xf.diffusion_step(x, m, STEP._replace(epsilon=0.0), seed=1, clip=1.0, backend="cpu"):
        assert got.isfinite().all()


def test_gradients_go_through_a_step():
    x, m = (normal(2, 4, 3, 3, seed=i).double().requires_grad_() for i in range(2))
    x0, noise = normal(2, 2, 3, 3, seed=2).double().requires_grad_(), normal(2, 2, 3, 3, seed=3).double()
    t, table = torch.tensor([0, 1]), torch.tensor([0.9, 0.2], dtype=torch.float64)

    def step(x, m):
        return xf.diffusion_step(x[:, :2], m, STEP, seed=1, variance="learned_range", clip=1.0)

    assert torch.autograd.gradcheck(step, (x, m))
    assert torch.autograd.gradcheck(lambda x0: xf.q_sample(x0, t, table, noise, target="v"), x0)
    got = torch.func.grad(lambda x: step(x, m.detach())[0].square().sum())(x.detach())
    assert_close(got, torch.autograd.grad(step(x, m)[0].square().sum(), x)[0])
    together = torch.func.vmap(lambda x, m: step(x[None], m[None])[1][0])(x.detach(), m.detach())
    assert_close(together, step(x.detach(), m.detach())[1])
    with pytest.raises(ValueError, match=r"backend='cpu' cannot serve this call of diffusion_step: .* no gradient"):
        xf.diffusion_step(x.float(), m.float(), STEP, seed=1, backend="cpu")
    with pytest.raises(ValueError, match="out must be None where a gradient"):
        xf.diffusion_step(x, m, STEP, seed=1, out=(torch.empty_like(x), None))


def test_classifier_guidance():
    mean, variance, gradient = normal(2, 3), normal(2, 3, seed=1).exp(), normal(2, 3, seed=2)
    assert_close(xf.classifier_guidance(mean, variance, gradient, 2.0), mean + 2 * variance * gradient)
    assert_close(xf.classifier_guidance(mean, 0.3, gradient, 2.0), mean + 0.6 * gradient)
    shifted, _ = xf.diffusion_step(mean, mean, STEP._replace(history=(0.6,)), history=(gradient,), seed=1)
    plain, _ = xf.diffusion_step(mean, mean, STEP, seed=1)
    assert_close(shifted, xf.classifier_guidance(plain, 0.3, gradient, 2.0))


@pytest.mark.parametrize(
    "name", ["diffusion_step", "diffusion_step_into", "dynamic_threshold", "q_sample", "philox_normal"]
)
def test_opcheck(name):
    op = ops()[name]
    torch.manual_seed(0)
    torch.library.opcheck(op.overload, (*op.sample(), "auto"))


def test_compiled():
    torch._dynamo.reset()

    def loop(x, m, t, table):
        y, x0 = xf.diffusion_step(x, m, STEP, seed=3, clip=1.0)
        noisy, velocity = xf.q_sample(y, t, table, seed=4, target="v")
        buffer = torch.empty_like(x)
        xf.diffusion_step(noisy, m, STEP, noise=xf.philox_normal(x.shape, 3), out=(buffer, None))
        return y, x0, velocity, buffer, xf.dynamic_threshold(3 * y, 0.9, 2.0)

    args = normal(2, 3, 8, 8), normal(2, 3, 8, 8, seed=1), torch.tensor([1, 0]), torch.tensor([0.9, 0.5])
    for a, b in zip(torch.compile(loop, fullgraph=True, backend="aot_eager")(*args), loop(*args), strict=True):
        assert torch.equal(a, b)


def test_autocast_leaves_dtypes_alone():
    x, m = normal(2, 3, 8, 8), normal(2, 3, 8, 8, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = xf.diffusion_step(x, m, STEP, seed=1)
    assert torch.equal(got, xf.diffusion_step(x, m, STEP, seed=1)[0])
