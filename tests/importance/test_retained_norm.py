"""The norms against PCA as scikit-learn does it, one map after the other."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from evo.importance.eigenvalues import FEWEST
from evo.importance.retained_norm import retained_norms

SHAPES = [(2, 2), (3, 3), (4, 4), (7, 7), (8, 8), (16, 16), (25, 25), (5, 9), (9, 5), (2, 40), (40, 2), (4, 1), (21, 1)]


def literal(maps: Tensor, variance: float = 0.95) -> Tensor:
    """As the paper tells it."""
    norms: list[float] = []
    for one in maps.double().numpy():
        if one.shape[0] == 1:
            norms.append(float(np.linalg.norm(one)))
        elif (one == one[0]).all():
            norms.append(0.0)  # no variance to hold
        else:
            projected = PCA(n_components=variance, svd_solver="full").fit_transform(one)
            norms.append(float(np.linalg.norm(projected)))
    return torch.tensor(norms, dtype=torch.float64)


def smooth(count: int, shape: tuple[int, int]) -> Tensor:
    """Maps with large and small components, with offsets, some of them with equal columns."""
    rng = torch.Generator().manual_seed(shape[0])
    drawn = torch.randn(count, 3, *shape, generator=rng)
    waves = torch.cumsum(drawn[:, 0], -1) + torch.cumsum(drawn[:, 1], -2) + 0.3 * drawn[:, 2]
    waves[::7, :, shape[1] // 2 :] = 0
    return waves + 10 * torch.randn(count, 1, 1, generator=rng)


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_a_loop_over_scikit_learn(shape: tuple[int, int]) -> None:
    maps = smooth(100, shape)
    expected = literal(maps)
    assert torch.allclose(retained_norms(maps.double(), 0.95), expected, rtol=1e-12, atol=0)
    assert torch.allclose(retained_norms(maps, 0.95), expected, rtol=1e-6, atol=0)
    many = maps.repeat(FEWEST // len(maps) + 1, 1, 1)
    assert torch.allclose(retained_norms(many, 0.95)[-len(maps) :], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("variance", [0.01, 0.5, 0.999])
def test_any_share_of_the_variance(variance: float) -> None:
    maps = smooth(100, (8, 8))
    expected = literal(maps, variance)
    assert torch.allclose(retained_norms(maps, variance), expected, rtol=1e-6, atol=0)


def test_all_of_the_variance_is_the_norm_of_the_centred_map() -> None:
    maps = smooth(20, (6, 8)).double()
    centred = torch.linalg.vector_norm(maps - maps.mean(1, keepdim=True), dim=(1, 2))
    assert torch.allclose(retained_norms(maps, 1.0), centred, rtol=1e-13)


def test_a_map_of_one_row_has_its_own_norm() -> None:
    assert retained_norms(torch.tensor([[[-3.0]], [[2.0]], [[0.0]]]), 0.95).tolist() == [3, 2, 0]
    assert retained_norms(torch.tensor([[[3.0, -4.0]]]), 0.95).tolist() == [5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 2), (5, 5), (3, 8), (8, 3), (4, 1)])
def test_constant_maps_have_norm_zero(shape: tuple[int, int], dtype: torch.dtype) -> None:
    maps = torch.tensor([0.0, 0.1, -7.3, 1e4]).view(-1, 1, 1).expand(4, *shape).to(dtype)
    assert retained_norms(maps, 0.95).tolist() == [0] * 4
    columns = torch.arange(shape[1], dtype=dtype).expand(1, *shape)
    assert retained_norms(columns, 0.95).tolist() == [0]


def test_equal_shares_are_told_apart_as_scikit_learn_does() -> None:
    """Two of four equal components hold one half, and 60 % need a third."""
    maps = torch.kron(torch.eye(4), torch.tensor([[1.0, 0], [-1, 0]])).expand(3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.allclose(retained_norms(maps, 0.6), literal(maps, 0.6), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_very_small_and_very_large_maps(scale: float) -> None:
    maps = smooth(50, (8, 8)) * scale
    assert torch.isfinite(maps).all()
    assert torch.allclose(retained_norms(maps, 0.95) / scale, literal(maps) / scale, rtol=1e-6)


def test_a_hair_beside_the_threshold() -> None:
    """Where single precision could not tell whether one component is enough, double precision does."""
    maps = []
    for share in (0.95 - 1e-6, 0.95 + 1e-6):
        one = torch.zeros(4, 4, dtype=torch.float64)
        one[:, 0] = torch.tensor([1.0, 1, -1, -1]) * share**0.5
        one[:, 1] = torch.tensor([1.0, -1, 1, -1]) * (1 - share) ** 0.5
        maps.append(one)
    both = torch.stack(maps)
    expected = literal(both)
    assert expected[0] > expected[1] + 0.01
    assert torch.allclose(retained_norms(both.float(), 0.95), expected, rtol=1e-5)
