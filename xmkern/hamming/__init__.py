"""Exact search in packed binary codes, as an index with ids that is saved, loaded and changed while it is searched."""

from xmkern.hamming.index import BinaryIndex

__all__ = ["BinaryIndex"]
