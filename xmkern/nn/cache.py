"""What a decoder remembers of the tokens that it has read."""

from torch import Tensor


class KeyValueCache:
    """Keys and values of one self-attention, so that a token is read once however many follow.

    Axes: ``B`` batch, ``H`` heads, ``S`` tokens read so far (``length``), ``D`` the size of a head.
    """

    def __init__(self) -> None:
        self.length = 0
        self._held: tuple[Tensor, Tensor] | None = None

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Takes [B, H, L, D] of L new tokens and returns those of all tokens, [B, H, S, D], as views.

        Raises:
            ValueError: value has other tokens than key, or one of them other axes, dtype or device than what is held;
                the cache is as it was.
        """
        if value.shape[:3] != key.shape[:3]:
            raise ValueError(
                f"value must be [B, H, L, Dv] = {[*key.shape[:3], 'Dv']} as key is, not {list(value.shape)}"
            )
        for name, new, held in zip(("key", "value"), (key, value), self._held or (), strict=False):
            (B, H, _, D), (*axes, _, width) = held.shape, new.shape
            if [*axes, width] != [B, H, D] or (new.dtype, new.device) != (held.dtype, held.device):
                raise ValueError(
                    f"{name} must be {[B, H, 'L', D]}, of {held.dtype} and on {held.device} as what is held, "
                    f"not {list(new.shape)}, of {new.dtype} and on {new.device}"
                )
        before, self.length = self.length, self.length + key.shape[2]
        self._held = tuple(  # type: ignore[assignment]
            self._room(held, new) for held, new in zip(self._held or (None, None), (key, value), strict=True)
        )
        assert self._held is not None
        for held, new in zip(self._held, (key, value), strict=True):
            held[:, :, before : self.length] = new
        return self._held[0][:, :, : self.length], self._held[1][:, :, : self.length]

    def select(self, rows: Tensor) -> None:
        """The samples become those of these numbers, int64 [B']: what a beam search keeps of its beams."""
        if self._held is not None:
            self._held = self._held[0][rows], self._held[1][rows]

    def _room(self, held: Tensor | None, new: Tensor) -> Tensor:
        """``held``, or twice the room that is needed, so that all the copying is of the order of S."""
        if held is not None and held.shape[2] >= self.length:
            return held
        B, H, _, D = new.shape
        grown = new.new_empty(B, H, 2 * self.length, D)
        if held is not None:
            grown[:, :, : held.shape[2]] = held
        return grown
