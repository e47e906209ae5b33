import pytest
import torch
from torch import Tensor

from evo.importance import eigenvalues as module
from evo.importance.eigenvalues import FEWEST, LARGEST, eigenvalues


def gram(size: int, rank: int, count: int = FEWEST + 3, dtype: torch.dtype = torch.float64) -> Tensor:
    drawn = torch.randn(count, size, rank, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    return (drawn @ drawn.mT).to(dtype)


def farthest(found: Tensor, matrices: Tensor) -> float:
    """The largest error, as a share of the matrix's trace."""
    expected = torch.linalg.eigvalsh(matrices.double()).flip(-1)
    trace = expected.sum(-1, keepdim=True).clamp_min(1e-300)
    return float(((found - expected).abs() / trace).max())


@pytest.mark.parametrize("size", [2, 3, 7, 15, LARGEST])
@pytest.mark.parametrize("share", [0.2, 0.5, 1.5])
def test_many_at_once_are_what_lapack_finds(size: int, share: float) -> None:
    matrices = gram(size, max(1, round(share * size)))
    assert farthest(eigenvalues(matrices), matrices) < 1e-13
    assert farthest(eigenvalues(matrices.float()), matrices.float()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrices_that_need_no_turning_and_such_that_divide_by_zero_otherwise(dtype: torch.dtype) -> None:
    size = 6
    awkward = [
        torch.zeros(size, size),
        torch.eye(size),
        torch.ones(size, size),
        torch.diag(torch.tensor([0.0, 1, 0, 3, 0, 0])),
        torch.kron(torch.diag(torch.tensor([1.0, 2])), torch.ones(3, 3)),
        torch.kron(torch.diag(torch.tensor([1.0, 0, 1])), torch.ones(2, 2)),
        2 * torch.eye(size) - torch.diag(torch.ones(size - 1), 1) - torch.diag(torch.ones(size - 1), -1),
        1e-10 * torch.ones(size, size),
        1e10 * torch.eye(size),
    ]
    alone = torch.stack(awkward).to(dtype)
    matrices = alone.repeat(FEWEST // len(awkward) + 1, 1, 1)
    found = eigenvalues(matrices)
    assert farthest(found, matrices) < (3e-7 if dtype == torch.float32 else 1e-14)
    assert (found >= 0).all()
    assert (found[:: len(awkward)] == 0).all(), "those of a matrix of zeros"
    assert (found.diff(dim=-1) <= 0).all()


@pytest.mark.parametrize(("size", "count"), [(1, 5), (4, 0), (4, 7), (LARGEST + 1, FEWEST), (1, 0)])
def test_few_or_large_ones_too(size: int, count: int) -> None:
    matrices = gram(size, size, count)
    found = eigenvalues(matrices)
    assert found.shape == (count, size)
    if count:
        assert farthest(found, matrices) < 1e-14


def test_lapack_takes_over_where_the_sweeps_do_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SWEEPS", 1)
    matrices = gram(7, 7)
    assert farthest(eigenvalues(matrices), matrices) < 1e-13
