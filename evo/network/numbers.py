"""Numbers that tell which entries of a tensor belong together, as small as the channels are many."""

from collections.abc import Iterable

from torch import Tensor

Numbers = Tensor
"""int64, of the shape of the tensor it describes: the number of every entry, 0 for one that is never removed.

Along dimensions in which nothing varies its stride is 0, so that it is as small as the channels are many.
"""


def varying(numbers: Numbers) -> tuple[int, ...]:
    """Return the dimensions along which the numbers vary."""
    return tuple(
        dim
        for dim, (size, stride) in enumerate(zip(numbers.shape, numbers.stride(), strict=True))
        if size > 1 and stride != 0
    )


def core(numbers: Numbers) -> Numbers:
    """Return the numbers once: every dimension along which they do not vary has size 1."""
    for dim, (size, stride) in enumerate(zip(numbers.shape, numbers.stride(), strict=True)):
        if size > 1 and stride == 0:
            numbers = numbers.narrow(dim, 0, 1)
    return numbers


def settled(numbers: Numbers) -> Numbers:
    """Give stride 0 to every dimension along which the numbers do not vary."""
    shape = numbers.shape
    numbers = core(numbers)
    for dim in varying(numbers):
        first = numbers.narrow(dim, 0, 1)
        if bool((numbers == first).all()):
            numbers = first
    return numbers.expand(shape)


def along(vector: Tensor, dim: int, shape: Iterable[int]) -> Numbers:
    """Spread one number per entry of dimension `dim` over a tensor of `shape`."""
    shape = tuple(shape)
    dim %= len(shape)
    return vector.reshape([-1 if index == dim else 1 for index in range(len(shape))]).expand(shape)
