import numpy as np
import pytest

from evo.importance.clusters import Clusters


def groups_of_points(seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Three tight groups of 5, 4 and 3 filters; in each, the first lies in the middle."""
    rng = np.random.default_rng(seed)
    centres = 10 * np.eye(3, 40)
    points = []
    for centre, number in zip(centres, (5, 4, 3), strict=True):
        around = rng.normal(0, 0.1, (number - 1, 40))
        points += [centre, *(centre + around - around.mean(0))]
    return np.array(points)


@pytest.mark.parametrize("seed", range(5))
def test_one_filter_stands_for_each_cluster(seed: int) -> None:
    chosen = Clusters.of(groups_of_points(seed), seed)(3)
    assert sorted(chosen) == [0, 5, 9]


def test_rotation_keeps_distances() -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 50))
    points = Clusters.of(vectors, 0).points
    assert points.shape == (7, 7)
    np.testing.assert_allclose(
        ((points[:, None] - points) ** 2).sum(2), ((vectors[:, None] - vectors) ** 2).sum(2), atol=1e-9
    )
    short = np.random.default_rng(0).normal(size=(9, 4))
    assert Clusters.of(short, 0).points is short


def test_every_count_gives_as_many_different_filters() -> None:
    choose = Clusters.of(np.random.default_rng(0).normal(size=(12, 30)), 3)
    for count in range(1, 13):
        assert len(set(choose(count).tolist())) == count


def test_equal_filters_make_too_few_clusters_and_are_still_different() -> None:
    points = np.concatenate([np.zeros((4, 3)), np.ones((2, 3))])
    chosen = Clusters.of(points, 0)(4).tolist()
    assert len(set(chosen)) == 4
    assert {0, 4} <= set(chosen)


def test_same_seed_same_choice() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 20))
    assert Clusters.of(vectors, 5)(10).tolist() == Clusters.of(vectors.copy(), 5)(10).tolist()
    assert len({tuple(sorted(Clusters.of(vectors, seed)(10))) for seed in range(5)}) > 1
