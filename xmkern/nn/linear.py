"""The projections of every layer here."""

from torch import Tensor, nn

from xmkern.functional import linear


class Linear(nn.Linear):
    """:class:`torch.nn.Linear`, with its constructor and state dict; see :func:`xmkern.functional.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
