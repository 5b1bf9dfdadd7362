"""Canonical correlations: another library's, the published gradient, and what the systems make of them."""

import numpy as np
import pytest
import torch

from xmkern.models import create_model
from xmkern.models.dcca import CubeRootSigmoid
from xmkern.models.parts.correlation import canonical, total_correlation


@pytest.fixture
def views():
    """x [60, 5] and y [60, 4], of which three directions are shared."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shared = draw(60, 3)
    return shared @ draw(3, 5) + 0.7 * draw(60, 5) + 3, shared @ draw(3, 4) + 0.7 * draw(60, 4) - 2


def test_components_are_those_of_scikit_learn(views):
    cross = pytest.importorskip("sklearn.cross_decomposition")
    x, y = views
    theirs = cross.CCA(3, max_iter=10_000, tol=1e-14).fit(x.numpy(), y.numpy())
    ours = canonical(x, y, 3)
    scores = [(side - side.mean(0)) @ maps for side, maps in ((x, ours.x), (y, ours.y))]
    for expected, found in zip(theirs.transform(x.numpy(), y.numpy()), scores, strict=True):
        found = found.numpy()
        expected = expected / expected.std(0, ddof=1) * np.sign((expected * found).sum(0))
        np.testing.assert_allclose(found, expected, atol=1e-4)
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(*(s.numpy().T for s in scores), strict=True)]
    np.testing.assert_allclose(ours.correlations, expected, atol=1e-10)


def test_the_system_solves_for_them(views):
    torch.manual_seed(0)
    model = create_model("cca", "paper", side=2, vocabulary=9, dim=3, ridge=1e-9)
    pictures = torch.randn(40, 3, 8, 8)
    words = torch.randint(5, 9, (40, 6))
    before = model.loss({"pictures": pictures, "words": words})
    model.fit({"pictures": pictures, "words": words})
    out = model(pictures, words)
    for side in out:
        torch.testing.assert_close(torch.cov(side.T), torch.eye(3), atol=1e-3, rtol=0)
        torch.testing.assert_close(side.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    assert model.loss({"pictures": pictures, "words": words}) < before - 0.1


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_the_gradient_of_the_total_correlation_is_the_published_one(views, ridge):
    """Andrew et al., 2013, equations 11 to 13, and what the ridge adds, which here is a share of the variance."""
    x, y = (side.clone().requires_grad_() for side in views)
    total = total_correlation(x, y, ridge)
    total.backward()
    n = len(x)
    a, b = (side.detach() - side.detach().mean(0) for side in (x, y))
    shares = [ridge * side.square().sum() / (n - 1) / side.shape[1] for side in (a, b)]

    def root(side, share):
        covariance = side.T @ side / (n - 1) + share * torch.eye(side.shape[1], dtype=side.dtype)
        values, vectors = torch.linalg.eigh(covariance)
        return vectors @ torch.diag(values.rsqrt()) @ vectors.T

    left, right = root(a, shares[0]), root(b, shares[1])
    u, d, vt = torch.linalg.svd(left @ a.T @ b @ right / (n - 1), full_matrices=False)
    across, own = left @ u @ vt @ right, -0.5 * left @ u @ torch.diag(d) @ u.T @ left
    expected = (2 * a @ own + b @ across.T) / (n - 1)
    expected += 2 * a * own.diagonal().sum() * ridge / a.shape[1] / (n - 1)
    torch.testing.assert_close(total, d.sum())
    torch.testing.assert_close(x.grad, expected)


def test_kernel_weights_solve_the_dual_problem():
    """Kx Ky b / (n - 1) = r (Kx^2 / (n - 1) + t Kx) a, and the same the other way, of centred kernels."""
    torch.manual_seed(0)
    n, ridge = 20, 0.3
    model = create_model("kcca", "paper", side=2, vocabulary=12, points=n, rank=n, dim=4, ridge=ridge).double()
    pictures, words = torch.randn(n, 3, 2, 2).double(), torch.randint(5, 12, (n, 6))
    model.fit({"pictures": pictures, "words": words})
    centre = torch.eye(n).double() - 1 / n
    kx, ky = (centre @ kernel @ centre for kernel in model.kernels(pictures, words))
    a, b = model.picture_out.weight.T, model.text_out.weight.T
    out = model(pictures, words)
    torch.testing.assert_close(out.picture, kx @ a, rtol=0, atol=1e-6)
    for k, other, own, theirs in ((kx, ky, a, b), (ky, kx, b, a)):
        values = torch.linalg.eigvalsh(k)
        values = values[values > values[-1] * 1e-10]
        metric = k @ k / (n - 1) + ridge * values.mean() / (n - 1) * k
        across = k @ other @ theirs / (n - 1)
        correlations = (own * across).sum(0)
        torch.testing.assert_close(own.T @ metric @ own, torch.eye(4).double(), rtol=0, atol=1e-6)
        torch.testing.assert_close(across, metric @ own * correlations, rtol=0, atol=1e-6)
    assert (correlations.diff() < 0).all()
    with pytest.raises(ValueError, match="20 rows, not 19"):
        model.fit({"pictures": pictures[1:], "words": words[1:]})


def test_the_networks_end_in_canonical_components():
    torch.manual_seed(0)
    model = create_model("dcca", side=2, vocabulary=12, hidden=(8,), dim=3, ridge=1e-6)
    given = {"pictures": torch.randn(50, 3, 4, 4), "words": torch.randint(5, 12, (50, 6))}
    before = model.loss(given)
    model.fit(given)
    torch.testing.assert_close(model.loss(given), before, rtol=1e-3, atol=1e-3)
    out = model(**given)
    across = out.picture.T @ out.text / 49
    for side in out:
        torch.testing.assert_close(torch.cov(side.T), torch.eye(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(across, across.diagonal().diag(), atol=1e-3, rtol=0)
    x = torch.linspace(-30, 30, 7)
    y = CubeRootSigmoid()(x)
    torch.testing.assert_close(y**3 / 3 + y, x)
