"""Property tests of kernels against their references, on any machine and for kernels of your own.

    from hypothesis import given
    from xmkern.testing import assert_matches_reference, strategies

    @given(strategies.hamming_topk())
    def test_topk(inputs):
        assert_matches_reference("hamming_topk", inputs, backend="cpu")

``strategies`` needs hypothesis; the rest does not.
"""

from xmkern.testing.compare import assert_matches_reference, each_capability, threads

__all__ = ["assert_matches_reference", "each_capability", "strategies", "threads"]


def __getattr__(name: str) -> object:
    if name == "strategies":
        import importlib

        return importlib.import_module("xmkern.testing.strategies")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
