"""The product of a linear layer, and its gradients. How it is computed is in README.md of this folder."""

from xmkern.ops.linear.cpu import few_rows
from xmkern.ops.linear.onednn import product_dtype, torch_crawls, torch_loops
from xmkern.ops.linear.op import linear, ordinary

__all__ = ["few_rows", "linear", "ordinary", "product_dtype", "torch_crawls", "torch_loops"]
