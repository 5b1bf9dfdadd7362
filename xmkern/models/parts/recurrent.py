"""Sentences read word by word."""

from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from xmkern.models.parts.words import lengths


class Read(NamedTuple):
    """Axes: ``B`` batch, ``T`` words or places, ``H`` the state, of both directions where there are two.

    Attributes:
        states: [B, T, H], 0 behind a sentence's end.
        last: [B, H], of the last layer: behind the last word, and before the first for the direction that goes back.
    """

    states: Tensor
    last: Tensor


class SequenceEncoder(nn.Module):
    """LSTM (Hochreiter and Schmidhuber, 1997) or GRU (Cho et al., 2014) over sequences of different lengths.

    Axes: ``B`` batch, ``T`` the sequence, ``E`` its features (``dim``), ``H`` the state.

    Args:
        dim: E.
        hidden: the state of one direction.
        cell: which of the two.
        bidirectional: whether a second one reads backwards; H is twice ``hidden`` then.
        layers: how many lie on one another.
        dropout: between them, in training.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        cell: Literal["lstm", "gru"] = "lstm",
        bidirectional: bool = False,
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.cell = kind(dim, hidden, layers, batch_first=True, dropout=dropout, bidirectional=bidirectional)
        self.dim = hidden * (1 + bidirectional)

    def forward(self, x: Tensor, counts: Tensor) -> Read:
        """[B, T, E], of which the first ``counts`` int64 [B], at least 1, of each row are there."""
        packed = pack_padded_sequence(x, counts.cpu(), batch_first=True, enforce_sorted=False)
        states, last = self.cell(packed)
        last = last[0] if isinstance(last, tuple) else last
        last = last[-1 - self.cell.bidirectional :].transpose(0, 1).flatten(1)
        return Read(pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])[0], last)


class SentenceEncoder(nn.Module):
    """Words embedded, then read by a :class:`SequenceEncoder`, whose keywords it takes.

    Axes: ``B`` batch, ``T`` words, ``H`` the state.

    Args:
        vocabulary: how many words.
        dim: of a word's embedding.
        hidden: the state of one direction.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        hidden: int,
        *,
        cell: Literal["lstm", "gru"] = "lstm",
        bidirectional: bool = False,
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, dim)
        self.sequence = SequenceEncoder(
            dim, hidden, cell=cell, bidirectional=bidirectional, layers=layers, dropout=dropout
        )
        self.dim = self.sequence.dim

    def forward(self, words: Tensor) -> Read:
        """int64 [B, T], padded with 0 at the end; of a sentence without words one padding is read."""
        return self.sequence(self.word(words), lengths(words).clamp(min=1))
