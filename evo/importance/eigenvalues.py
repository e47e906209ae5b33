"""Eigenvalues of very many small symmetric matrices at once.

LAPACK does one matrix after the other and cannot use a processor's vector units on so small ones. Here thousands of matrices
go through every step together, one beside the other in the innermost dimension of all tensors, so that a step is one
vectorised operation: Householder's reduction to tridiagonal form, then the QL method of Pal, Walker and Kahan, which needs
no square roots (Parlett, *The Symmetric Eigenvalue Problem*, section 8.15; LAPACK's dsterf).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST = 20
"""Rows up to which this is faster than LAPACK."""

FEWEST = 1024
"""Matrices from which on it is: a step takes its time even for one."""

_SWEEPS = 30
"""QL sweeps for one eigenvalue before LAPACK is asked, as often as LAPACK itself tries."""

_BLOCK = 2**21
"""Bytes of the matrices that are reduced together: they stay in a processor's cache."""

_LANES = 2**15
"""Matrices that are swept together."""

_ZERO = {torch.float32: (1e-11, 1e-18), torch.float64: (1e-80, 1e-100)}
"""Pivots of matrices of trace one up to which they count as zero, and what stands for zero, so that nothing divides by it."""

_NEGLIGIBLE = {torch.float32: 1e-8, torch.float64: 1e-15}
"""Entries beside the diagonal of such matrices that count as zero."""


def eigenvalues(matrices: Tensor) -> Tensor:
    """Return the eigenvalues of positive semidefinite matrices, to a few roundings of the largest.

    Beyond that, a matrix's digits depend on those that it is together with.

    Args:
        matrices: symmetric, finite, float32 or float64, shape (N, n, n) with n ≥ 1; traces are neither so small nor so
            large that their squares are no numbers.

    Returns:
        Shape (N, n), the largest first; none is negative, and all of a matrix of zeros are zero.
    """
    size = matrices.shape[-1]
    if size == 1:
        return matrices[:, 0]
    if size > LARGEST or len(matrices) < FEWEST:
        return _by_lapack(matrices)
    return torch.cat([_together(part) for part in torch.split(matrices, _LANES)])


def _by_lapack(matrices: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(matrices)
    return values.flip(-1).clamp_min(0)


def _together(matrices: Tensor) -> Tensor:
    trace = matrices.diagonal(dim1=1, dim2=2).sum(-1)
    scale = torch.where(trace > 0, trace, 1.0)
    block = max(64, _BLOCK // (matrices.element_size() * matrices.shape[-1] ** 2))
    parts = [
        _tridiagonal(part.permute(1, 2, 0).contiguous().div_(unit))
        for part, unit in zip(torch.split(matrices, block), torch.split(scale, block), strict=True)
    ]
    diagonal, squares = (torch.cat(part, -1) for part in zip(*parts, strict=True))
    if not _sweep(diagonal, squares):
        return _by_lapack(matrices)
    return diagonal.t().sort(-1, descending=True).values.clamp_min_(0) * trace[:, None]


def _tridiagonal(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Reduce matrices, shape (n, n, lanes), overwriting them.

    Returns:
        The diagonals, shape (n, lanes), and the squares of the entries beside them, shape (n − 1, lanes).
    """
    size, _, lanes = matrices.shape
    tiny = _ZERO[matrices.dtype][1] ** 2
    squares = matrices.new_empty(size - 1, lanes)
    for step in range(size - 2):
        rest = matrices[step + 1 :, step + 1 :]
        vector = matrices[step + 1 :, step].clone()
        tail = (vector[1:] * vector[1:]).sum(0)
        first = vector[0]
        torch.addcmul(tail, first, first, out=squares[step])
        first += torch.copysign(squares[step].sqrt(), first)
        # A column that is zero already is reflected by nothing.
        beta = 2 / tail.addcmul_(first, first).clamp_min_(tiny)
        product = (rest * vector).sum(1).mul_(beta)
        half = (product * vector).sum(0).mul_(beta).mul_(-0.5)
        product.addcmul_(half, vector)
        rest.addcmul_(vector[:, None], product[None], value=-1).addcmul_(product[:, None], vector[None], value=-1)
    torch.mul(matrices[-1, -2], matrices[-1, -2], out=squares[-1])
    return matrices.diagonal(dim1=0, dim2=1).t().contiguous(), squares


def _sweep(diagonal: Tensor, squares: Tensor) -> bool:
    """Turn the diagonals of tridiagonal matrices of trace one into their eigenvalues; return whether that succeeded.

    Further sweeps do no harm to matrices that need none, hence all have as many as the slowest of them.
    """
    negligible = _NEGLIGIBLE[diagonal.dtype] ** 2
    rows, beside = diagonal.unbind(0), squares.unbind(0)
    for top in range(len(beside)):
        for _ in range(_SWEEPS):
            if not bool((beside[top] > negligible).any()):
                break
            _ql(rows[top:], beside[top:])
        else:
            return False
    return True


def _ql(diagonal: Sequence[Tensor], squares: Sequence[Tensor]) -> None:
    """Do one QL sweep in place, with a shift that makes the first of `squares` vanish."""
    zero, tiny = _ZERO[diagonal[0].dtype]
    shift = _shift(diagonal[0], diagonal[1], squares[0])
    gamma = torch.hardshrink(diagonal[-1] - shift, zero).add_(tiny)
    p = gamma * gamma
    r, cosine, sine, new = (torch.empty_like(p) for _ in range(4))
    for row in range(len(squares) - 1, -1, -1):
        torch.add(p, squares[row], out=r)
        if row < len(squares) - 1:
            torch.mul(sine, r, out=squares[row + 1])
        torch.div(squares[row], r, out=sine)
        torch.div(p, r, out=cosine)
        torch.sub(diagonal[row], shift, out=new)
        new.mul_(cosine).addcmul_(sine, gamma, value=-1)
        below, gamma = gamma, torch.hardshrink(new, zero).add_(tiny)
        torch.add(below, diagonal[row], out=diagonal[row + 1]).sub_(gamma)
        torch.mul(gamma, gamma, out=p).div_(cosine)
    torch.mul(sine, p, out=squares[0])
    torch.add(shift, gamma, out=diagonal[0])


def _shift(first: Tensor, second: Tensor, square: Tensor) -> Tensor:
    """Return Wilkinson's shift: the eigenvalue of the 2×2 matrix at the top that is closer to its first entry."""
    half = (second - first) / 2
    # With the sign that does not cancel; first itself where the matrix is diagonal.
    under = half + torch.copysign((half * half + square).sqrt(), half)
    return first - square / torch.where(under == 0, 1.0, under)
