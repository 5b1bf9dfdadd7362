"""Bad input is refused by name."""

import pytest
import torch

import xmkern.functional as xf

X = torch.randn(2, 4, 6, 5)
STEP = xf.StepCoefficients(alpha=0.8, sigma=0.6, sample=0.3, original=0.5, noise=0.4)
QUIET = STEP._replace(noise=0.0)


def step(sample=X, model_output=X, coefficients=STEP, **more):
    if coefficients is STEP and "noise" not in more:
        more.setdefault("seed", 1)
    return xf.diffusion_step(sample, model_output, coefficients, **more)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample": [1.0]}, "sample must be a tensor, not list"),
        ({"sample": X.long()}, "sample must be float32, bfloat16, float16 or float64, not torch.int64"),
        ({"sample": X[0, 0, 0, 0]}, r"sample must have an axis of samples"),
        ({"model_output": X[:1]}, r"model_output must be of shape \[2, 4, 6, 5\], not \[1, 4, 6, 5\]"),
        ({"model_output": X.double()}, "model_output must be torch.float32, not torch.float64"),
        ({"model_output": X.to("meta")}, "model_output must be on cpu, not on meta"),
        ({"guidance": 2.0}, r"model_output must be of shape \[4, 4, 6, 5\], not"),
        ({"variance": "learned"}, r"model_output must be of shape \[2, 8, 6, 5\], not"),
        ({"variance": "fixed"}, "variance must be None, 'learned_range' or 'learned', not 'fixed'"),
        ({"sample": X[:, 0, 0, 0], "model_output": X[:, 0, 0, 0], "variance": "learned"}, "an axis of channels"),
        ({"prediction": "eps"}, "prediction must be 'epsilon', 'sample', 'v' or 'flow', not 'eps'"),
        ({"coefficients": (1.0, 0.0)}, "coefficients must be StepCoefficients, not tuple"),
        ({"coefficients": STEP._replace(sample=float("nan"))}, "coefficients.sample must be finite, not nan"),
        (
            {"coefficients": QUIET._replace(history=(float("inf"),))},
            r"coefficients.history\[0\] must be finite, not inf",
        ),
        ({"coefficients": STEP._replace(noise=torch.tensor(1.0))}, "coefficients.noise must be a number, not Tensor"),
        (
            {"coefficients": STEP._replace(alpha=0.0)},
            "coefficients.alpha must not be 0 where the model predicts epsilon",
        ),
        (
            {"coefficients": QUIET._replace(sigma=0.0, epsilon=1.0), "prediction": "v"},
            "coefficients.sigma must not be 0",
        ),
        ({"coefficients": QUIET._replace(alpha=0.0, sigma=0.0), "prediction": "v"}, "must not both be 0"),
        ({"history": [X]}, "history must have as many tensors as coefficients.history has numbers, 0"),
        ({"coefficients": QUIET._replace(history=(1.0,)), "history": [X[:1]]}, r"history\[0\] must be of shape"),
        ({"coefficients": QUIET._replace(history=(1.0,) * 4), "history": [X] * 4}, "at most 3, not 4"),
        ({"noise": None}, "noise or seed must be given where the coefficients"),
        ({"noise": X, "seed": 1}, "noise and seed must not both be given"),
        ({"noise": X[:, :1]}, "noise must be of shape"),
        ({"noise": X.half()}, "noise must be torch.float32, not torch.float16"),
        ({"seed": 2**64}, r"seed must be from -2\^63 to 2\^64 - 1"),
        ({"seed": 1.5}, "seed must be an int, not float"),
        ({"offset": -1}, "offset must be from 0"),
        ({"clip": -1.0}, "clip must be greater than 0, not -1.0"),
        ({"clip": "yes"}, "clip must be a number, not str"),
        ({"clip": xf.DynamicThreshold(1.5)}, "ratio must be 0 to 1, not 1.5"),
        ({"clip": xf.DynamicThreshold(0.9, 0.5)}, "max_value must be at least 1, not 0.5"),
        ({"guidance": float("inf"), "model_output": X.repeat(2, 1, 1, 1)}, "guidance must be finite, not inf"),
        ({"guidance_rescale": 2.0}, "guidance_rescale must be 0 to 1, not 2.0"),
        ({"mask": X}, "known and mask must be given together"),
        ({"mask": X, "known": 1.0}, "known must be a tensor, not float"),
        ({"mask": X[:, :3], "known": X}, r"mask must broadcast to \[2, 4, 6, 5\], not \[2, 3, 6, 5\]"),
        ({"mask": X.half(), "known": X}, "mask must be torch.float32, not torch.float16"),
        ({"out": (X[:1], None)}, r"out\[0\] must be of shape"),
        ({"out": (X.mT.contiguous().mT, None)}, r"out\[0\] must be contiguous"),
        ({"out": (torch.empty_like(X), X.half())}, r"out\[1\] must be torch.float32, not torch.float16"),
        ({"backend": "cuda"}, "backend must be 'auto' or one of"),
    ],
)
def test_step(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        step(**arguments)


T, TABLE = torch.tensor([0, 9]), torch.linspace(0.99, 0.01, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t": torch.tensor([0, 10])}, r"t must be 0 to 9, not 10 as t\[1\] is"),
        ({"t": torch.tensor([-1, 0])}, r"t must be 0 to 9, not -1 as t\[0\] is"),
        ({"t": torch.tensor([0])}, r"t must be of shape \[2\], a number for each sample of x0, not \[1\]"),
        ({"t": T.float()}, "t must be a tensor of torch.int64 or torch.int32, not torch.float32"),
        ({"t": 3}, "t must be a tensor of torch.int64 or torch.int32, not int"),
        ({"t": T.to("meta")}, "t must be on cpu as x0 is, not on meta"),
        ({"alphas_cumprod": TABLE[None]}, r"alphas_cumprod must be of shape \[T\]"),
        ({"alphas_cumprod": TABLE.half()}, "alphas_cumprod must be a tensor of torch.float32 or torch.float64"),
        ({"target": "x0"}, "target must be 'epsilon', 'sample', 'v' or None, not 'x0'"),
        ({"seed": None}, "noise or seed must be given, and not both"),
        ({"noise": X}, "noise or seed must be given, and not both"),
        ({"noise": X[0], "seed": None}, "noise must be of shape"),
        ({"x0": 1}, "x0 must be a tensor, not int"),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_q_sample(arguments, message, backend):
    arguments = {"x0": X, "t": T, "alphas_cumprod": TABLE, "seed": 1, **arguments}
    with pytest.raises((TypeError, ValueError), match=message):
        xf.q_sample(**arguments, backend=backend)


def test_others():
    for call, message in (
        (lambda: xf.dynamic_threshold(X, 1.5), "ratio must be 0 to 1"),
        (lambda: xf.dynamic_threshold(X, 0.9, float("inf")), "max_value must be finite"),
        (lambda: xf.dynamic_threshold(X.int()), "x0 must be float32"),
        (lambda: xf.classifier_guidance(X, X[0, :2], X), r"variance must broadcast to \[2, 4, 6, 5\]"),
        (lambda: xf.classifier_guidance(X, X, X[0]), "gradient must be of shape"),
        (lambda: xf.philox_normal([3], 1, dtype=torch.int32), "dtype must be one of"),
        (lambda: xf.philox_normal([3], 1, out=torch.empty(4)), r"out must be contiguous and of shape \[3\]"),
        (lambda: xf.philox_normal([3], None), "seed must be an int, not NoneType"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            call()
