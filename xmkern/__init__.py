"""Fused kernels for cross-modal learning.

``xmkern.functional`` holds the stateless calls, ``xmkern.nn`` the modules made of them, ``xmkern.distributed`` the
losses of batches that are spread over processes, ``xmkern.hamming`` the search index. Importing needs neither a GPU nor
Triton nor a compiler; what is absent is served by plain PyTorch.
"""

from xmkern import biases, distributed, functional, masks, native, nn
from xmkern.native import cpu_capabilities, cpu_capability, set_cpu_capability

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "biases",
    "cpu_capabilities",
    "cpu_capability",
    "distributed",
    "functional",
    "masks",
    "nn",
    "set_cpu_capability",
]

native.warn_if_missing()
