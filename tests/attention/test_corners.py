"""Numbers at the edges of what float32 and int64 hold, on every capability."""

import sys

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as torch_sdpa

import xmkern.functional as xf
from xmkern import masks
from xmkern.testing import assert_matches_reference


@pytest.mark.usefixtures("capability")
class TestCorners:
    @pytest.mark.parametrize("queries", [2, 30])
    def test_a_row_hidden_by_the_lowest_number_is_uniform(self, queries: int) -> None:
        """Models hide padding by finfo.min instead of -inf: where all is hidden so, torch averages the values."""
        query, key = torch.randn(1, 2, queries, 8), torch.randn(1, 2, 20, 8)
        value = torch.randn(1, 2, 20, 8)
        mask = torch.full((1, 1, 1, 1), torch.finfo(torch.float32).min)
        got, want = xf.attention(query, key, value, mask, backend="cpu"), torch_sdpa(query, key, value, mask)
        torch.testing.assert_close(got, want)

    @pytest.mark.parametrize("queries", [2, 30])
    @pytest.mark.parametrize("size", [1e4, 1e10])
    def test_huge_scores(self, queries: int, size: float) -> None:
        query, key, value = (size**0.5 * torch.randn(1, 2, n, 8) for n in (queries, 20, 20))
        got, want = xf.attention(query, key, value, backend="cpu"), torch_sdpa(query, key, value)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * size**0.5)

    @pytest.mark.parametrize("queries", [2, 30])
    def test_bounds_at_the_end_of_int64(self, queries: int) -> None:
        query, key, value = (torch.randn(1, 2, n, 8) for n in (queries, 80, 80))
        for mask in (masks.band(2, sys.maxsize), masks.causal(sys.maxsize - 3) & masks.band(sys.maxsize, 3)):
            assert_matches_reference("attention", {"query": query, "key": key, "value": value, "mask": mask}, "cpu")

    @pytest.mark.parametrize("queries", [2, 30])
    def test_every_nan_is_kept(self, queries: int) -> None:
        query, key, value = (torch.randn(1, 1, n, 8) for n in (queries, 20, 20))
        query.view(torch.int32)[0, 0, 1, 3] = 0x7FC00001
        out, lse = xf.attention(query, key, value, return_lse=True, backend="cpu")
        assert out[0, 0, 1].isnan().all()
        assert lse[0, 0, 1].isnan()
        assert out[0, 0, 0].isfinite().all()

    def test_default_device_is_not_the_kernels(self) -> None:
        query = torch.randn(1, 1, 5, 8, requires_grad=True)
        bias = torch.randn(1, 1, 5, 5, requires_grad=True)
        codes = xf.pack_bits(torch.randn(5, 16))
        with torch.device("meta"):
            out = xf.attention(query, query, query, bias=bias, backend="cpu")
            found = xf.hamming_topk(codes, codes, 2)
        out.sum().backward()
        assert out.isfinite().all()
        assert bias.grad is not None
        assert torch.equal(found[0][:, 0], torch.zeros(5, dtype=torch.int32))

    @pytest.mark.parametrize("which", ["query", "key", "value"])
    def test_rows_that_are_one_and_the_same(self, which: str) -> None:
        """In memory too: a product reads rows of whole vectors where they lie."""
        torch.manual_seed(0)
        inputs = {name: torch.randn(2, 4, n, 64) for name, n in (("query", 37), ("key", 50), ("value", 50))}
        inputs[which] = inputs[which][:, :, :1].expand_as(inputs[which])
        inputs = {name: x.requires_grad_() for name, x in inputs.items()}
        assert_matches_reference("attention", inputs, backend="cpu")

    def test_a_gradient_that_all_queries_share(self) -> None:
        found = []
        for backend in ("auto", "cpu", "reference"):
            torch.manual_seed(0)
            inputs = [torch.randn(2, 4, 37, 64, requires_grad=True) for _ in range(3)]
            found.append(torch.autograd.grad(xf.attention(*inputs, backend=backend).sum(2).square().sum(), inputs))
        for got, checked, want in zip(*found, strict=True):
            assert torch.equal(got, checked)
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)

    def test_keys_that_no_head_asks_for(self) -> None:
        xf.attention(
            *(torch.randn(2, 4, 64, 64, requires_grad=True) for _ in range(3))
        ).sum().backward()  # leaves scratch
        query, key, value = (torch.randn(2, heads, 6, 8, requires_grad=True) for heads in (0, 2, 2))
        xf.attention(query, key, value).sum().backward()
        assert key.grad is not None
        assert value.grad is not None
        assert not key.grad.any()
        assert not value.grad.any()

    @pytest.mark.parametrize("name", ["query", "key", "value", "bias", "mask"])
    def test_numbers_that_lie_there_with_the_other_sign(self, name: str) -> None:
        inputs = {"query": torch.randn(2, 2, 9, 9), "key": torch.randn(2, 2, 9, 9), "value": torch.randn(2, 2, 9, 9)}
        negative = torch.randn(2, 2, 9, 9, dtype=torch.complex64).conj().imag
        assert negative.is_neg()
        want = xf.attention(**{**inputs, name: negative.resolve_neg()})
        assert torch.equal(xf.attention(**{**inputs, name: negative}), want)
