"""Plans of optimal transport between the tokens of two sides. The maths is in README.md of this folder."""

from xmkern.ops.transport.op import transport_plan

__all__ = ["transport_plan"]
