"""A kernel that does nothing but count bits. Importing this module imports Triton."""

import triton
import triton.language as tl

from xmkern.ops.hamming.triton_kernels import _popcount

LANES = 512  # of a program
WORDS = 8  # counted in a round


@triton.jit(do_not_specialize=["seed", "rounds"])
def popcount_kernel(out, seed, rounds):
    """Eight sums side by side, so that none waits for the one before."""
    lane = tl.program_id(0) * 512 + tl.arange(0, 512)
    word = lane.to(tl.uint32) * 2654435761 + seed.to(tl.uint32)
    total = tl.zeros((512,), tl.int32)
    for _ in range(rounds):
        for k in tl.static_range(8):
            total += _popcount(word ^ ((0x9E3779B9 * (k + 1)) & 0xFFFFFFFF))
        word += total.to(tl.uint32)
    tl.store(out + lane, total)
