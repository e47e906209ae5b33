"""Which filters matter: scores per channel of every coupling group, larger is more important."""

from evo.importance.magnitude import magnitude

__all__ = ["magnitude"]
