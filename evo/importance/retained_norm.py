"""The size of a feature map after principal component analysis (OCNNA eq. 4 and 5)."""

import math

import torch
from torch import Tensor

from evo.importance.eigenvalues import eigenvalues

_CLOSE = 1e-5
"""Shares of the variance that single precision cannot be trusted to tell apart."""

_SAFE = 1e-12, 1e12
"""Total variances between which single precision neither overflows nor loses digits."""

_BLOCK = 2**17
"""Numbers of the maps whose Gram matrices are computed together: they stay in a processor's cache."""


def retained_norms(maps: Tensor, variance: float) -> Tensor:
    """Return ‖PCA(map)‖_F of every map: the Frobenius norm of its projection on as few components as are needed.

    A map's rows are samples and its columns features, centred per column. Kept are the first components whose share of the
    variance adds up to more than `variance`, as scikit-learn's `PCA(n_components=variance, svd_solver="full")` does. The
    norm of the projection is the root of the sum of their squared singular values, which are eigenvalues of the centred
    map's smaller Gram matrix; components themselves are never computed.

    A map of one row has no variance: its norm is the row's own, that of a 1×1 map the number's absolute value. A constant
    map of several rows has norm 0.

    Args:
        maps: shape (N, H, W), finite. All but float64 are computed in single precision, except where that could decide how
            many components are kept.
        variance: in (0, 1].

    Returns:
        Shape (N,), float64, with a relative error of about 1e-7, of 1e-14 for maps in float64.
    """
    if maps.shape[1] == 1:
        row: Tensor = torch.linalg.vector_norm(maps.double(), dim=(1, 2))
        return row
    if maps.dtype == torch.float64:
        return _norms(maps, variance)[0]
    norms, doubtful = _norms(maps.float(), variance)
    again = doubtful.nonzero()[:, 0]
    if len(again):
        norms[again] = _norms(maps[again].double(), variance)[0]
    return norms


def _norms(maps: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """Return the norms, and which of them single precision cannot be trusted with, both of shape (N,)."""
    block = max(1, _BLOCK // maps[0].numel()) if len(maps) else 1
    gram = torch.cat([_gram(part) for part in torch.split(maps, block)])
    single = gram.dtype == torch.float32
    trace = gram.diagonal(dim1=1, dim2=2).sum(-1)
    doubtful = ~((trace > _SAFE[0]) & (trace < _SAFE[1])) & single
    if bool(doubtful.any()):
        gram = torch.where(doubtful[:, None, None], 0.0, gram)
    values = eigenvalues(gram)
    sums = values.cumsum(-1)
    wanted = variance * sums[:, -1:]
    # The first component is always kept, and every other while those before it fall short.
    last = (sums <= wanted).sum(-1, keepdim=True).clamp_(max=sums.shape[-1] - 1)
    kept = sums.gather(-1, last)
    before = sums.gather(-1, (last - 1).clamp_(min=0))
    nearest = torch.minimum((kept - wanted).abs(), (before - wanted).abs())
    doubtful |= (nearest < _CLOSE * wanted)[:, 0] & single
    return kept[:, 0].double().sqrt_(), doubtful


def _gram(maps: Tensor) -> Tensor:
    """Return the smaller Gram matrices of maps, shape (N, H, W) with H > 1, centred per column: shape (N, n, n).

    Differences from the first row lose no digits where a map hardly varies. The rows of a centred map add up to zero: with
    H ≤ W a Householder reflection, which turns the vector of ones into the first axis, leaves the first row zero, n = H − 1.
    """
    height, width = maps.shape[1:]
    apart = maps[:, 1:] - maps[:, :1]
    mean = apart.sum(1, keepdim=True) / height
    if height <= width:
        root = math.sqrt(height)
        rows = apart.sub_(mean, alpha=root / (root + 1))
        return rows @ rows.mT
    centred = torch.cat([-mean, apart.sub_(mean)], 1)
    return centred.mT @ centred
