"""Normal numbers of Philox4x32-10, as integer and float32 arithmetic of which every bit is fixed.

Each number depends on the seed and on its own index alone. A tile of 64 numbers comes of 16 counters: word w of the
four that Philox makes of counter 16 t + j belongs to number 64 t + 16 w + j. Words 0 and 1 of a counter are turned into
two normal numbers (Box and Muller, 1958), and so are words 2 and 3. Products and sums are rounded one by one, nowhere
fused.
"""

import torch
from torch import Tensor

from xmkern.ops.attention.reference import philox

_LOW = 0xFFFFFFFF
# The polynomials of least relative error: -2 log(1 + x) / x on [sqrt(1/2) - 1, sqrt(2) - 1]; sin(pi x / 4) / x and
# cos(pi x / 4), in x^2, on [0, 1].
_LOG = (
    -1.9999998807907104, 1.0000072717666626, -0.6667011976242065, 0.4993981719017029,
    -0.39800330996513367, 0.34501659870147705, -0.3244515657424927, 0.2021378129720688,
)  # fmt: skip
_SIN = (0.7853981852531433, -0.08074543625116348, 0.00249000103212893, -3.59504520019982e-05)
_COS = (0.9999999403953552, -0.308424174785614, 0.015849683433771133, -0.00031872783438302577)
_MINUS_2_LOG_2 = -1.3862943649291992
_SQRT_HALF = 0x3F3504F3  # the bits of sqrt(1/2)


def normals(count: int, seed: int, offset: int, device: torch.device | str = "cpu") -> Tensor:
    """float32 [count]: the numbers offset to offset + count of the sequence of this seed."""
    first, tiles = offset // 64, -(-(offset + count) // 64) - offset // 64
    counter = torch.arange(tiles * 16, device=device) + first * 16
    zero = torch.zeros_like(counter)
    words = philox((counter & _LOW, (counter >> 32) & _LOW, zero, zero), torch.full_like(zero[:1], seed))
    numbers = [*_box_muller(*words[:2]), *_box_muller(*words[2:])]
    flat = torch.stack([each.view(tiles, 16) for each in numbers], 1).flatten()
    return flat[offset - first * 64 :][:count]


def _box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two normal numbers from two 32-bit words: a radius, and a point of the unit circle."""
    # (0, 1] in steps that are finer near 0
    uniform = (a & 0x7FFFFFFF).float() * 2.0**-31 + 2.0**-32
    bits = uniform.view(torch.int32)
    exponent = (bits - _SQRT_HALF) >> 23
    x = (bits - (exponent << 23)).view(torch.float32) - 1
    radius = x * _polynomial(_LOG, x) + exponent.float() * _MINUS_2_LOG_2
    radius = radius.double().sqrt().float()  # rounded exactly, as torch's own root in float32 is not
    # The word as a number in [-1, 1] chooses a point of an eighth of the circle to each side of the x axis; a bit that
    # is left of each word chooses to which of the four sides that is turned.
    x = _signed(b).float() * 2.0**-31
    square = x * x
    sine, cosine = x * _polynomial(_SIN, square), _polynomial(_COS, square)
    cosine = torch.where(a >> 31 == 1, -cosine, cosine)
    swap = (b & 2) == 2
    return radius * torch.where(swap, sine, cosine), radius * torch.where(swap, cosine, sine)


def _signed(word: Tensor) -> Tensor:
    """The 32 bits in an int64 as an int32's value."""
    return (word ^ 0x80000000) - 0x80000000


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total
