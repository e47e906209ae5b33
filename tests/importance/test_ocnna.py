import warnings

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

import evo
from evo.errors import NetworkError, SettingsError
from evo.importance import FilterSelection, ocnna_scores, structures
from evo.importance.feature_maps import NormStatistics
from evo.importance.filters import FloatArray
from evo.importance.ocnna import SHARD
from evo.training import Samples, balanced_subset
from tests.importance.zoo import network_of

RNG = torch.Generator().manual_seed(0)


def images(count: int, *shape: int) -> Samples:
    return Samples(torch.randn(count, *shape, generator=RNG), torch.arange(count) % 3)


def outputs(model: nn.Module, layer: str, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _, inputs, output: found.append(output.clone()))
    with hook, torch.no_grad():
        model.eval()(x)
    return torch.cat(found)


def norm(one: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> float:
    """Norm of one map, by scikit-learn."""
    if one.shape[0] == 1:
        return float(np.linalg.norm(one))
    if (one == one[0]).all():
        return 0.0
    return float(np.linalg.norm(PCA(n_components=0.95, svd_solver="full").fit_transform(one)))


def literal(maps: Tensor) -> FloatArray:
    """C_m as Algorithm 1 tells it, filter by filter and image by image, of maps (N, C, H, W)."""
    scores = []
    for number in range(maps.shape[1]):
        norms = np.array([norm(one) for one in maps[:, number].double().numpy()])
        scores.append(norms.std() / norms.mean() if norms.mean() else 0.0)
    return np.array(scores)


def whole(network: evo.Network) -> nn.Module:
    return network.build(network.full)


def test_equal_to_a_loop_over_scikit_learn(digits_task: evo.Task) -> None:
    network = digits_task.network
    count = SHARD + 30
    scores = ocnna_scores(network, digits_task.train, images=count, seed=4)
    chosen = digits_task.train.take(balanced_subset(digits_task.train.y, count, np.random.default_rng(4)))
    assert list(scores) == [group.name for group in network.groups] == ["0", "4", "9"]
    for name, expected_maps in (("0", (8, 8)), ("4", (4, 4)), ("9", (1, 1))):
        maps = outputs(whole(network), name, chosen.x)
        maps = maps[:, :, None, None] if maps.dim() == 2 else maps
        assert maps.shape[2:] == expected_maps
        np.testing.assert_allclose(scores[name], literal(maps), rtol=1e-6, atol=0)
        assert scores[name].std() > 0.01


def test_a_batch_normalisation_in_between_changes_nothing(digits_task: evo.Task) -> None:
    scores = ocnna_scores(digits_task.network, digits_task.train, images=60)
    chosen = digits_task.train.take(balanced_subset(digits_task.train.y, 60, np.random.default_rng(0)))
    for convolution, normalisation in (("0", "1"), ("4", "5")):
        maps = outputs(whole(digits_task.network), normalisation, chosen.x)
        np.testing.assert_allclose(scores[convolution], literal(maps), rtol=1e-4)


def test_the_result_does_not_depend_on_who_works_and_in_how_many_processes(digits_task: evo.Task) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = ocnna_scores(digits_task.network, digits_task.train, images=2 * SHARD + 1)
    workers = evo.LocalEvaluator(workers=2)
    together = ocnna_scores(digits_task.network, digits_task.train, images=2 * SHARD + 1, map_items=workers.map)
    for name, scores in alone.items():
        assert (scores == together[name]).all()


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    norms = np.random.default_rng(0).lognormal(size=(70, 5)) * [1, 1, 1, 1e6, 0]
    parts = [NormStatistics.of(part) for part in np.split(norms, [1, 20, 69])]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    expected = norms[:, :4].std(0) / norms[:, :4].mean(0)
    np.testing.assert_allclose(total.variation[:4], expected, rtol=1e-12)
    assert (total.count, total.variation[4]) == (70, 0)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = (x + self.second(x)).relu()
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_layers_that_share_channels_count_the_same() -> None:
    torch.manual_seed(0)
    data = images(40, 1, 6, 6)
    network = evo.Network.analyse(Residual(), data.x[:1])
    (scores,) = ocnna_scores(network, data, images=40).values()
    per_layer = [literal(outputs(whole(network), name, data.x)) for name in ("first", "second")]
    np.testing.assert_allclose(scores, np.mean([one / one.mean() for one in per_layer], 0), rtol=1e-6)


def test_a_layer_that_is_called_twice_has_two_maps_per_image() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Conv2d(4, 4, 3, padding=1)
            self.first = nn.Conv2d(1, 4, 1)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.shared(self.shared(self.first(x)).relu())
            return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    data = images(30, 1, 6, 6)
    network = evo.Network.analyse(Twice(), data.x[:1])
    (scores,) = ocnna_scores(network, data, images=30).values()
    per_layer = [literal(outputs(whole(network), name, data.x)) for name in ("first", "shared")]
    np.testing.assert_allclose(scores, np.mean([one / one.mean() for one in per_layer], 0), rtol=1e-6)


def test_channels_with_several_filters_have_their_mean() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3), nn.PixelShuffle(2), nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    data = images(20, 1, 8, 8)
    network = evo.Network.analyse(model, data.x[:1])
    assert [group.size for group in network.groups] == [3]
    (scores,) = ocnna_scores(network, data, images=20).values()
    expected = literal(outputs(model, "0", data.x)).reshape(3, 4).mean(1)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("first", "rest", "shape"),
    [
        (nn.Conv1d(2, 5, 3), [nn.Conv1d(5, 3, 3)], (2, 12)),
        (nn.Conv3d(1, 5, 3), [nn.Conv3d(5, 3, 1)], (1, 5, 6, 7)),
        (nn.Linear(4, 5), [nn.Linear(5, 3)], (6, 4)),
        (nn.ConvTranspose2d(2, 5, 2, stride=2), [nn.Conv2d(5, 3, 1)], (2, 4, 4)),
    ],
    ids=["sequences", "volumes", "tokens", "transposed"],
)
def test_maps_of_other_shapes(first: nn.Module, rest: list[nn.Module], shape: tuple[int, ...]) -> None:
    data = images(25, *shape)
    network = evo.Network.analyse(nn.Sequential(first, nn.ReLU(), *rest, nn.Flatten()), data.x[:1])
    (scores,) = ocnna_scores(network, data, images=25).values()
    maps = first(data.x).detach()
    if isinstance(first, nn.Linear):
        maps = maps.mT[:, :, None]  # a row of tokens
    elif maps.dim() == 3:
        maps = maps[:, :, None]
    elif maps.dim() == 5:
        maps = maps.flatten(2, 3)
    np.testing.assert_allclose(scores, literal(maps), rtol=1e-6)


def test_filters_that_never_fire_count_nothing_and_layers_of_one_filter_stay_whole() -> None:
    torch.manual_seed(0)
    second = nn.Conv2d(1, 4, 3)
    model = nn.Sequential(nn.Conv2d(1, 1, 3), second, nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten())
    with torch.no_grad():
        for parameter in second.parameters():
            parameter[2] = 0
        second.weight[3] = 0
    data = images(20, 1, 7, 7)
    network = evo.Network.analyse(model, data.x[:1])
    scores = ocnna_scores(network, data, images=20)
    assert list(scores) == ["1"]
    assert (scores["1"] == 0).tolist() == [False, False, True, True]
    (structure,) = structures(network, scores, [50])
    assert structure.masks["1"].tolist() == [True, True, False, False]


def test_fewer_images_than_asked_for_are_all() -> None:
    network = network_of("lenet")
    data = images(7, 1, 28, 28)
    found, expected = (ocnna_scores(network, data, images=number, seed=1) for number in (5000, 7))
    for one, other in zip(found.values(), expected.values(), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": 1}, r"^images: a deviation takes at least 2 images, got 1 of 7 training images$"),
        ({"images": 0}, r"^images: .* got 0 of 7"),
        ({"images": 5e3}, r"^images: expected a whole number, got 5000\.0$"),
        ({"variance": 0.0}, r"^variance: expected a share in \(0, 1\], got 0\.0$"),
        ({"variance": 1.5}, r"^variance: .* got 1\.5$"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ocnna_scores(network_of("lenet"), images(7, 1, 28, 28), **settings)  # type: ignore[arg-type]


def test_outputs_that_are_no_numbers_are_refused() -> None:
    data = images(7, 1, 28, 28)
    with pytest.raises(
        NetworkError, match=r"^conv1: its output is not finite, so that its filters cannot be compared$"
    ):
        ocnna_scores(network_of("lenet"), Samples(data.x * 1e38, data.y))


def test_channels_that_no_layer_returns_are_refused() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filters = nn.Parameter(torch.randn(4, 1, 3, 3))
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.conv2d(x, self.filters).relu().mean((2, 3)))  # type: ignore[no-any-return]

    data = images(7, 1, 8, 8)
    network = evo.Network.analyse(Bare(), data.x[:1])
    with pytest.raises(NetworkError, match=r"^filters: OCNNA looks at what layers return, and none that is called"):
        ocnna_scores(network, data)


def test_a_selection_keeps_the_most_important_filters(digits_task: evo.Task) -> None:
    network = digits_task.network
    selection = FilterSelection(network, "ocnna", 3, samples=digits_task.train)
    scores = ocnna_scores(network, digits_task.train, seed=3)
    for counts in ([3, 5, 7], [1, 2, 3]):
        for name, mask in selection.masks(counts).items():
            assert set(np.flatnonzero(mask)) == set(np.argsort(-scores[name], kind="stable")[: mask.sum()])
    with pytest.raises(
        SettingsError, match=r"^select: 'ocnna' looks at feature maps; give FilterSelection training images"
    ):
        FilterSelection(network, "ocnna").masks([3, 5, 7])
    assert (selection.masks(network.costs.sizes)["0"]).all()


def test_an_encoding_selects_by_it(digits_task: evo.Task) -> None:
    space = evo.ChannelVector(select="ocnna", initial="random").bind(digits_task, (1.0,))
    individual = space.initial(1, np.random.default_rng(0))[0]
    blueprint = space.decode(individual)
    chosen = FilterSelection(digits_task.network, "ocnna", samples=digits_task.train)
    assert blueprint == evo.Blueprint.from_masks(chosen.masks(space.counts(individual)))
