"""The Triton launchers of diffusion against the reference, in Triton's interpreter.

See tests/interpreter.py.
"""

import pytest
import torch

import xmkern.functional as xf
from tests import interpreter
from tests.interpreter import DEVICE
from xmkern.ops import gpu
from xmkern.ops.diffusion import triton
from xmkern.ops.diffusion.normals import normals
from xmkern.testing import assert_matches_reference

pytest.importorskip("triton")

STEP = xf.StepCoefficients(alpha=0.8, sigma=0.6, sample=0.3, original=0.5, epsilon=0.2, noise=0.4)


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape).to(dtype).to(DEVICE)


def assert_right(B=2, C=3, rest=(9, 11), dtype=torch.float32, variance=None, guided=False, histories=0, **more):
    """A step with noise that is drawn, but where another source is named."""
    shape = (B, C, *rest)
    output = normal(2 * B if guided else B, 2 * C if variance else C, *rest, dtype=dtype)
    coefficients = more.pop("coefficients", STEP)._replace(history=(0.5, -0.3, 0.2)[:histories])
    inputs = {
        "sample": normal(*shape, dtype=dtype),
        "model_output": output.abs() if variance == "learned" else output,
        "coefficients": coefficients._replace(log_variances=(-5.0, -2.0)),
        "history": [normal(*shape, dtype=dtype) for _ in range(histories)],
        "variance": variance,
        "guidance": 3.0 if guided else None,
        **({} if "noise" in more else {"seed": 7}),
        **more,
    }
    assert_matches_reference("diffusion_step", inputs, backend="triton")


def check_predictions_and_noise() -> None:
    for prediction in ("epsilon", "sample", "v", "flow"):
        assert_right(prediction=prediction, clip=1.0)
    assert_right(noise=normal(2, 3, 9, 11), histories=3)
    assert_right(coefficients=STEP._replace(noise=0.0), histories=1, clip=0.5)
    assert_right(offset=2**33 + 5, coefficients=STEP._replace(churn=0.3))


def check_shapes_and_dtypes() -> None:
    for rest in ((), (1,), (64,), (40, 40)):
        assert_right(rest=rest)
    assert_right(B=0)
    assert_right(dtype=torch.bfloat16, offset=16, rest=(16, 8))
    assert_right(dtype=torch.float16, noise=normal(2, 3, 9, 11))


def check_variances_and_guidance() -> None:
    assert_right(variance="learned_range", guided=True)
    assert_right(variance="learned")
    assert_right(guided=True, guidance_rescale=0.7, rest=(50, 50))
    assert_right(guided=True, guidance_rescale=0.7, rest=(), C=1)


def check_thresholds() -> None:
    assert_right(clip=xf.DynamicThreshold(0.9, 1.7), rest=(50, 50))
    assert_right(clip=xf.DynamicThreshold(0.9, 50.0), guided=True, guidance_rescale=0.5, prediction="v")
    assert_right(clip=xf.DynamicThreshold(0.995, 50.0), coefficients=STEP._replace(churn=0.5))
    for x0 in (5 * normal(2, 3, 700), (3 * normal(2, 40)).round(), normal(2, 1), normal(0, 4)):
        for ratio in (0.0, 0.31, 0.995, 1.0):
            inputs = {"x0": x0, "ratio": ratio, "max_value": 4.0}
            assert_matches_reference("dynamic_threshold", inputs, backend="triton")


def check_masks() -> None:
    masked = STEP._replace(known=0.9, known_noise=0.4)
    for shape in ((2, 1, 9, 11), (2, 3, 9, 11), (1, 1, 9, 11), (9, 1)):
        mask = (normal(*shape) > 0).float()
        assert_right(coefficients=masked, mask=mask, known=normal(1, 3, 9, 11))


def check_nan_and_infinity() -> None:
    x, m = normal(2, 3, 50), normal(2, 3, 50)
    m[1, 1, 4], m[0, 0, 0] = torch.nan, torch.inf
    got = xf.diffusion_step(x, m, STEP._replace(epsilon=0.0), seed=1, clip=1.0, backend="triton")
    assert all(torch.equal(each.isnan(), m.isnan()) for each in got)
    got = xf.dynamic_threshold(m, 0.9, 2.0, backend="triton")
    assert got.isnan().flatten(1).all(1).tolist() == [False, True]


def check_out() -> None:
    x, m = normal(2, 3, 50), normal(2, 3, 50)
    expected, _ = xf.diffusion_step(x, m, STEP, seed=1, backend="triton")
    got, _ = xf.diffusion_step(x, m, STEP, seed=1, out=(x, None), backend="triton")
    assert got is x
    assert torch.equal(x, expected)


def check_normals() -> None:
    for seed, offset, count in ((0, 0, 5000), (-3, 63, 100), (2**64 - 1, 2**38 + 11, 3000), (5, 128, 64), (5, 0, 0)):
        got = xf.philox_normal([count], seed, offset, device=DEVICE, backend="triton")
        assert torch.equal(got.cpu(), normals(count, seed if seed < 2**63 else seed - 2**64, offset))


def check_q_sample() -> None:
    t, table = torch.tensor([9, 0], dtype=torch.int32, device=DEVICE), torch.linspace(0.999, 0.01, 10, device=DEVICE)
    for target in ("epsilon", "sample", "v", None):
        for noise in ({"seed": 3, "offset": 5}, {"noise": normal(2, 3, 90)}):
            inputs = {"x0": normal(2, 3, 90), "t": t, "alphas_cumprod": table.double(), "target": target, **noise}
            assert_matches_reference(
                lambda **inputs: [x for x in xf.q_sample(**inputs, backend="triton") if x is not None],
                inputs,
                reference=lambda **inputs: [x for x in xf.q_sample(**inputs, backend="reference") if x is not None],
            )
    wrong = torch.tensor([3, 10], device=DEVICE)
    noisy, _ = xf.q_sample(normal(2, 90), wrong, table, seed=1, backend="triton")
    assert noisy.isnan().all(1).tolist() == [False, True]


CHECKS = interpreter.checks(globals())


@pytest.mark.parametrize("first", range(0, len(CHECKS), 5))
def test_in_the_interpreter(first: int) -> None:
    interpreter.run(__name__, list(CHECKS)[first : first + 5])


def test_import_leaves_triton_alone() -> None:
    interpreter.assert_import_leaves_triton_alone("xmkern.ops.diffusion.triton")


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 4, 8)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "not on a CUDA GPU" in (triton.refuses(x) or "")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton.refuses(x) is None
    assert "not torch.float64" in (triton.refuses(x.double()) or "")
    assert "or more elements" in (triton.refuses(x[:1, :1].expand(3, 2**27, 8)) or "")
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in (triton.refuses(x) or "")


if __name__ == "__main__":
    interpreter.main(CHECKS)
