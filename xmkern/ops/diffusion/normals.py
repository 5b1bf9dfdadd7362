"""Normal numbers of Philox4x32-10, as integer and float32 arithmetic of which every bit is fixed.

Each number depends on the seed and on its own index alone. Tile t of 64 numbers comes of 16 counters: word w of the
four that Philox makes of the counter (t mod 2^32, t // 2^32, 0, j) belongs to number 64 t + 16 w + j. Words 0 and 1 of
a counter are turned into two normal numbers (Box and Muller, 1958), and so are words 2 and 3. Products and sums are
rounded one by one, nowhere fused.
"""

import torch
from torch import Tensor

from xmkern.ops.attention.reference import philox

_LOW = 0xFFFFFFFF
# The polynomials of least relative error: -2 log(1 + x) / x on [sqrt(1/2) - 1, sqrt(2) - 1]; sin(pi x / 2) / x and
# cos(pi x / 2), in x^2, on [0, 1/4].
_LOG = (
    -1.9999998807907104, 1.0000072717666626, -0.6667011976242065, 0.4993981719017029,
    -0.39800330996513367, 0.34501659870147705, -0.3244515657424927, 0.2021378129720688,
)  # fmt: skip
_SIN = (1.5707963705062866, -0.6459634900093079, 0.07968003302812576, -0.00460165785625577)
_COS = (0.9999999403953552, -1.233696699142456, 0.25359493494033813, -0.02039858140051365)
_MINUS_2_LOG_2 = -1.3862943649291992
_SQRT_HALF = 0x3F3504F3  # the bits of sqrt(1/2)


def normals(count: int, seed: int, offset: int, device: torch.device | str = "cpu") -> Tensor:
    """float32 [count]: the numbers offset to offset + count of the sequence of this seed."""
    first, tiles = offset // 64, -(-(offset + count) // 64) - offset // 64
    place = torch.arange(tiles * 16, device=device)
    tile, zero = place // 16 + first, torch.zeros_like(place)
    words = philox((tile & _LOW, (tile >> 32) & _LOW, zero, place % 16), torch.full_like(zero[:1], seed))
    numbers = [*_box_muller(*words[:2]), *_box_muller(*words[2:])]
    flat = torch.stack([each.view(tiles, 16) for each in numbers], 1).flatten()
    return flat[offset - first * 64 :][:count]


def _box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two normal numbers from two 32-bit words: a radius, and a point of the unit circle."""
    # In (0, 1], finer near 0: the number that has these bits.
    bits = ((a & 0x7FFFFFFF).float() + 0.5).view(torch.int32) - (31 << 23)
    exponent = (bits - _SQRT_HALF) >> 23
    x = (bits - (exponent << 23)).view(torch.float32) - 1
    radius = x * _polynomial(_LOG, x) + exponent.float() * _MINUS_2_LOG_2
    radius = radius.double().sqrt().float()  # rounded exactly, as torch's own root in float32 is not
    # 23 bits as a number in [-1/2, 1/2) choose a point of an eighth of the circle to each side of the x axis; a bit
    # that is left of each word chooses to which of the four sides that is turned.
    x = ((b >> 9) | 0x3F800000).int().view(torch.float32) - 1.5
    square = x * x
    sine, cosine = x * _polynomial(_SIN, square), _polynomial(_COS, square)
    cosine = torch.where(a >> 31 == 1, -cosine, cosine)
    swap = (b & 2) == 2
    return radius * torch.where(swap, sine, cosine), radius * torch.where(swap, cosine, sine)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total
