import copy
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evo
from evo.fitness.frame import Frame
from evo.fitness.gradients import Batch, GradientRatio, layer_weights, positions_of
from evo.fitness.proxies import CLOSED_FORMS, PROXIES, score
from evo.network.zoo import nasbench201, resnet20
from tests.network.networks import Transformer

LAYERS = (nn.Conv2d, nn.Linear)


class Small(nn.Module):
    """Two convolutions, one grouped, batch normalisation, ReLUs as functions and in place, an addition, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 3)

    def features(self, x: Tensor, norm: bool = True) -> Tensor:
        x = self.conv1(x)
        x = torch.relu(self.bn(x) if norm else x)
        y: Tensor = self.relu(self.conv2(x))
        return x + y

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="GPU"))]
)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(device: str) -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Small().double().to(device)


def batches_of(count: int, device: str, images: int = 5) -> list[Batch]:
    rng = np.random.default_rng(7)
    found = []
    for _ in range(count):
        x, y = rng.standard_normal((images, 2, 5, 5)), rng.integers(3, size=images)
        found.append((torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)))
    return found


@pytest.fixture
def batches(device: str) -> list[Batch]:
    return batches_of(2, device)


def loss(model: nn.Module, batch: Batch) -> float:
    """Mean cross-entropy, written out."""
    with torch.no_grad():
        logits = model.train()(batch[0]).cpu().numpy()
    labels = batch[1].cpu().numpy()
    return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]))


def differences(function: Callable[[], float], values: Tensor, step: float = 1e-6) -> np.ndarray:
    """Return the gradient of `function` with respect to `values`, number by number, by central differences."""
    flat = values.detach().view(-1)
    found = np.zeros(flat.numel())
    for index in range(flat.numel()):
        before = float(flat[index])
        flat[index] = before + step
        above = function()
        flat[index] = before - step
        found[index] = (above - function()) / (2 * step)
        flat[index] = before
    return found


def slow_gradients(model: nn.Module, batch: Batch) -> list[np.ndarray]:
    return [differences(lambda: loss(model, batch), weight) for weight in layer_weights(model)]


def slow_grad_norm(model: nn.Module, batch: Batch) -> float:
    return sum(math.sqrt(float((gradient**2).sum())) for gradient in slow_gradients(model, batch))


def slow_snip(model: nn.Module, batch: Batch) -> float:
    pairs = zip(layer_weights(model), slow_gradients(model, batch), strict=True)
    return sum(float(np.abs(weight.detach().cpu().numpy().ravel() * gradient).sum()) for weight, gradient in pairs)


def slow_grasp(model: nn.Module, batch: Batch) -> float:
    """−w · Hg, where Hg is how the gradient changes along itself."""
    step = 1e-4
    weights = layer_weights(model)
    direction = slow_gradients(model, batch)
    original = [weight.detach().clone() for weight in weights]

    def at(sign: int) -> list[np.ndarray]:
        for weight, start, along in zip(weights, original, direction, strict=True):
            weight.data = start + sign * step * torch.from_numpy(along).view(start.shape).to(start)
        return slow_gradients(model, batch)

    above, below = at(1), at(-1)
    at(0)
    product = [(up - down) / (2 * step) for up, down in zip(above, below, strict=True)]
    return -sum(float(start.cpu().numpy().ravel() @ hg) for start, hg in zip(original, product, strict=True))


def slow_fisher(model: nn.Module, batch: Batch) -> float:
    """Half the mean squared derivative with respect to a gate on every channel of every image."""
    total = 0.0
    for layer in [module for module in model.modules() if isinstance(module, LAYERS)]:
        outputs = layer.weight.shape[0]
        gates = torch.ones(len(batch[0]), outputs, dtype=torch.float64, device=batch[0].device)

        def gated(module: nn.Module, inputs: object, output: Tensor, gates: Tensor = gates) -> Tensor:
            return output * gates.view(*gates.shape, *[1] * (output.dim() - 2))

        hook = layer.register_forward_hook(gated)
        slopes = differences(lambda: loss(model, batch), gates).reshape(len(batch[0]), outputs)
        hook.remove()
        for channel in range(outputs):
            total += 0.5 * float(np.mean(slopes[:, channel] ** 2))
    return total


def slow_naswot(model: Small, batch: Batch) -> float:
    with torch.no_grad():
        model.train()
        first = model.bn(model.conv1(batch[0]))
        second = model.conv2(torch.relu(first))
    bits = np.concatenate([value.cpu().flatten(1).numpy() > 0 for value in (first, second)], axis=1)
    kernel = np.zeros((len(bits), len(bits)))
    for one in range(len(bits)):
        for other in range(len(bits)):
            kernel[one, other] = np.count_nonzero(bits[one] == bits[other])
    return float(np.log(abs(np.linalg.det(kernel))))


SLOW: dict[str, tuple[Callable[..., float], float]] = {
    "grad_norm": (slow_grad_norm, 1e-6),
    "snip": (slow_snip, 1e-6),
    "grasp": (slow_grasp, 1e-3),
    "fisher": (slow_fisher, 1e-6),
    "naswot": (slow_naswot, 1e-9),
}


@pytest.mark.parametrize("proxy", SLOW)
def test_equals_a_literal_slow_version(proxy: str, model: Small, batches: list[Batch]) -> None:
    slow, tolerance = SLOW[proxy]
    expected = np.mean([slow(copy.deepcopy(model), batch) for batch in batches])
    assert score(model, batches, proxy) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(("proxy", "signed"), [("zico", True), ("sof_printed", False), ("sof", False)])
def test_gradient_ratios_equal_finite_differences(proxy: str, signed: bool, model: Small, batches: list[Batch]) -> None:
    per_batch = [slow_gradients(copy.deepcopy(model), batch) for batch in batches]
    with positions_of(model, layer_weights(model)) as positions:
        model(batches[0][0])
    expected = 0.0
    for one, other, place in zip(*per_batch, positions, strict=True):
        total = 0.0
        for a, b in zip(one, other, strict=True):
            mean = (abs(a) + abs(b)) / 2
            deviation = abs(a - b) / 2 if signed else abs(abs(a) - abs(b)) / 2
            total += min(mean / deviation, 10.0) if proxy == "sof" else mean / deviation
        size = math.sqrt((sum(a**2 for a in one) + sum(b**2 for b in other)) / 2)
        robust = (place / max(positions)) ** 0.2 * math.log(size * total)
        expected += robust if proxy == "sof" else math.log(total)
    assert score(model, batches, proxy) == pytest.approx(expected, rel=1e-4)


def test_synflow_equals_finite_differences_of_the_network_without_normalisation(
    model: Small, batches: list[Batch]
) -> None:
    positive = copy.deepcopy(model)
    for parameter in positive.parameters():
        parameter.data.abs_()
    ones = torch.ones_like(batches[0][0][:1])

    def flow() -> float:
        with torch.no_grad():
            return float(positive.fc(positive.features(ones, norm=False).mean((2, 3))).sum())

    expected = sum(
        float(np.abs(weight.detach().cpu().numpy().ravel() * differences(flow, weight)).sum())
        for weight in layer_weights(positive)
    )
    assert score(model, batches, "synflow") == pytest.approx(expected, rel=1e-6)


def test_synflow_of_a_chain_is_its_flow_once_per_layer(device: str) -> None:
    """Without biases every layer's Σ w ∂R/∂w is R itself (Euler), which NumPy finds by multiplying matrices."""
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal(shape) for shape in ((6, 4), (5, 6), (3, 5))]
    layers = [nn.Linear(m.shape[1], m.shape[0], bias=False, dtype=torch.float64) for m in matrices]
    for layer, matrix in zip(layers, matrices, strict=True):
        layer.weight.data = torch.from_numpy(matrix)
    chain = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).to(device)
    flow = np.ones(4)
    for matrix in matrices:
        flow = np.abs(matrix) @ flow
    batch = (torch.randn(2, 4, dtype=torch.float64, device=device), torch.zeros(2, dtype=torch.int64, device=device))
    assert score(chain, [batch], "synflow") == pytest.approx(3 * flow.sum(), rel=1e-12)


def test_zen_by_hand(model: Small, batches: list[Batch]) -> None:
    expected = []
    for number, (x, _) in enumerate(batches):
        generator = torch.Generator().manual_seed(5 + number)
        drawn = copy.deepcopy(model).train()
        for layer in (drawn.conv1, drawn.conv2, drawn.fc):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator).to(x)
            if layer.bias is not None:
                layer.bias.data.zero_()
        one, noise = (torch.randn(x.shape, generator=generator).to(x) for _ in range(2))
        with torch.no_grad():
            change = drawn.features(one).cpu().numpy() - drawn.features(one + 0.01 * noise).cpu().numpy()
            into_norm = drawn.conv1(one).cpu().numpy()
        distance = np.mean([np.abs(image).sum() for image in change])
        variance = np.mean([into_norm[:, channel].var() for channel in range(4)])
        expected.append(np.log(distance) + np.log(np.sqrt(variance)))
    assert score(model, batches, "zen", seed=5) == pytest.approx(np.mean(expected), rel=1e-5)


def test_zen_sees_the_map_behind_pooling_and_before_the_classifier() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2))
    batch = (torch.zeros(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64))
    generator = torch.Generator().manual_seed(0)
    weight, _, one, noise = (
        torch.randn(shape, generator=generator) for shape in ((3, 1, 3, 3), (2, 12), (4, 1, 6, 6), (4, 1, 6, 6))
    )
    maps = [nn.functional.max_pool2d(nn.functional.conv2d(x, weight), 2) for x in (one, one + 0.01 * noise)]
    expected = np.log(np.abs((maps[0] - maps[1]).numpy()).sum((1, 2, 3)).mean())
    assert score(model, [batch], "zen") == pytest.approx(expected, rel=1e-3)


def test_zen_of_a_network_without_maps_looks_at_its_output() -> None:
    chain = nn.Sequential(nn.Linear(4, 3, bias=False))
    batch = (torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(6, dtype=torch.int64))
    generator = torch.Generator().manual_seed(0)
    weight, _, noise = (torch.randn(shape, generator=generator) for shape in ((3, 4), (6, 4), (6, 4)))
    expected = np.log(0.01 * np.abs(noise.numpy() @ weight.numpy().T).sum(1).mean())
    assert score(chain, [batch], "zen") == pytest.approx(expected, rel=1e-3)


def test_closed_forms_of_a_network_at_hand() -> None:
    model, x = resnet20(), torch.zeros(1, 3, 32, 32)
    network = evo.Network.analyse(model, x)
    costs = network.cost_of(network.full)
    batches = [(x, torch.zeros(1, dtype=torch.int64))]
    assert score(model, batches, "params") == costs["params"]
    assert score(model, batches, "macs") == costs["macs"]
    sizes = network.costs.weights(network.counts(network.full))
    assert score(model, batches, "log_weights") == pytest.approx(sum(math.log(size) for size in sizes))
    counts = network.counts(network.full)
    assert score(model, batches, "capacity") == pytest.approx(float(network.costs.capacity(counts)))


def test_a_proxy_may_be_any_function(model: Small, batches: list[Batch]) -> None:
    def widest(frame: Frame) -> float:
        assert frame.model.training
        return float(max(frame.layer_sizes))

    assert score(model, batches, widest) == 4 * 2 * 9
    assert score(model, batches, lambda frame: GradientRatio(cap=2)(frame.model, batches)) < score(model, batches)


def state(model: nn.Module) -> Iterator[object]:
    yield [module.training for module in model.modules()]
    yield [parameter.requires_grad for parameter in model.parameters()]
    yield [parameter.grad for parameter in model.parameters()]
    yield {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    yield [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    yield torch.is_grad_enabled()
    yield torch.get_rng_state().tolist()


@pytest.mark.parametrize("proxy", PROXIES)
def test_leaves_the_network_as_it_was(proxy: str, model: Small, batches: list[Batch]) -> None:
    model.bn.eval()
    model.conv1.weight.requires_grad_(False)
    before = list(state(model))
    first = score(model, batches, proxy)
    assert list(state(model)) == before
    with torch.no_grad():
        before = list(state(model))
        assert score(model, batches, proxy) == pytest.approx(first, rel=1e-12)
        assert list(state(model)) == before


def made(make: Callable[[], nn.Module]) -> nn.Module:
    """Return what `make` makes, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make()


class Counting(nn.Module):
    """Puts a new tensor in the place of a buffer instead of writing into it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))
        self.fc = nn.Linear(50, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.fc(x.flatten(1)).relu()  # type: ignore[no-any-return]


@pytest.mark.parametrize("proxy", ["sof", "fisher", "zen", "macs"])
def test_leaves_buffers_that_are_replaced_as_they_were(proxy: str) -> None:
    model = made(Counting)
    before = model.get_buffer("calls")
    score(model, batches_of(2, "cpu"), proxy)
    assert model.get_buffer("calls") is before
    assert float(before) == 0


def test_leaves_the_network_as_it_was_when_something_fails(model: Small, batches: list[Batch]) -> None:
    before = list(state(model.eval()))
    wrong = [(x, y + 5) for x, y in batches]
    for proxy in ("fisher", "sof"):
        with pytest.raises(IndexError):
            score(model, wrong, proxy)
        assert list(state(model)) == before


@pytest.mark.parametrize("proxy", sorted(set(PROXIES) - {"zen", "naswot"}))
def test_dropout_is_the_same_whatever_ran_before(proxy: str, batches: list[Batch]) -> None:
    chain = nn.Sequential(nn.Flatten(), nn.Linear(50, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    here = [(x.cpu(), y.cpu()) for x, y in batches]
    first = score(chain, here, proxy, seed=1)
    torch.rand(3)
    assert score(chain, here, proxy, seed=1) == first
    deterministic = CLOSED_FORMS | {"synflow"}
    assert (score(chain, here, proxy, seed=2) == first) == (proxy in deterministic)


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize(
    "arch", ["|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"]
)
def test_runs_on_cells_with_and_without_use(proxy: str, arch: str) -> None:
    cut = arch.replace("nor_conv_3x3~2", "none~2")  # node 2, and what leads to it, is without use
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(4, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 3])) for _ in range(2)]
    scores = []
    for cell in (arch, cut):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            scores.append(score(nasbench201(cell, width=4, cells=1), batches, proxy))
    assert all(math.isfinite(value) for value in scores)
    assert scores[0] != scores[1]


def images_of(channels: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(4, channels, 5, 5, generator=generator), torch.tensor([0, 1, 2, 0])) for _ in range(2)]


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (nn.Conv2d(2, 2, 3, padding=1, bias=False) for _ in range(2))
        self.other.weight = self.one.weight
        self.fc = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.other(self.one(x).relu()).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("proxy", PROXIES)
def test_layers_that_share_a_weight(proxy: str) -> None:
    """Whatever draws or replaces weights has to do so once for both."""
    model = made(Tied)
    assert math.isfinite(score(model, images_of(2), proxy))
    assert model.get_parameter("other.weight") is model.get_parameter("one.weight")


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_layer_whose_weight_is_computed(proxy: str) -> None:
    model = made(
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
        )
    )
    assert math.isfinite(score(model, images_of(2), proxy))


@pytest.mark.parametrize("proxy", PROXIES)
def test_attention(proxy: str) -> None:
    model = made(
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), Transformer(8, "fused"), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    )
    assert math.isfinite(score(model, images_of(2), proxy))


def test_fisher_knows_where_the_channels_of_a_linear_layer_are() -> None:
    """A linear layer on the channels of every position is a convolution of 1 × 1."""
    generator = torch.Generator().manual_seed(1)
    conv, fc = nn.Conv2d(2, 4, 1), nn.Linear(4, 3)
    for parameter in (*conv.parameters(), *fc.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    rows = nn.Linear(2, 4)
    rows.weight.data, rows.bias.data = conv.weight.data[:, :, 0, 0], conv.bias.data  # type: ignore[union-attr]

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.fc = rows, fc

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rows(x.flatten(2).transpose(1, 2)).relu().mean(1))  # type: ignore[no-any-return]

    as_conv = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc)
    assert score(Rows(), images_of(2), "fisher") == pytest.approx(score(as_conv, images_of(2), "fisher"), rel=1e-5)


def test_naswot_needs_rectifiers() -> None:
    batch = (torch.randn(3, 4), torch.tensor([0, 1, 0]))
    with pytest.raises(evo.EvoError, match="the network has none"):
        score(nn.Sequential(nn.Linear(4, 2), nn.Tanh()), [batch], "naswot")


@pytest.mark.parametrize("relu", [nn.ReLU6(), nn.LeakyReLU(), nn.PReLU(), nn.Threshold(0.0, 0.0)])
def test_naswot_knows_other_rectifiers(relu: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = (torch.randn(4, 6, generator=generator), torch.tensor([0, 1, 0, 1]))
    linear = nn.Linear(6, 16)
    linear.weight.data = torch.randn(16, 6, generator=generator)
    plain = score(nn.Sequential(linear, nn.ReLU()), [batch], "naswot")
    assert score(nn.Sequential(linear, relu), [batch], "naswot") == pytest.approx(plain, rel=1e-12)


def test_bad_input_is_refused(model: Small, batches: list[Batch]) -> None:
    with pytest.raises(evo.EvoError, match=r"unknown proxy 'synflo'; did you mean 'synflow'\?"):
        score(model, batches, "synflo")
    with pytest.raises(evo.EvoError, match="got no batch"):
        score(model, [], "snip")
    with pytest.raises(
        evo.EvoError, match="score: Sequential has no convolutional or linear layer with a weight of its own"
    ):
        score(nn.Sequential(nn.Flatten()), batches, "naswot")
    with pytest.raises(ValueError, match="a deviation over batches needs two of them, got 1"):
        score(model, batches[:1], "zico")


@pytest.mark.parametrize("proxy", ["sof", "sof_printed", "zico", "snip", "grad_norm", "grasp", "fisher"])
def test_a_score_that_is_not_a_number_is_refused(proxy: str, model: Small, batches: list[Batch]) -> None:
    batches[1][0][0] = math.nan
    with pytest.raises(ValueError, match=f"the score '{proxy}' is nan"):
        score(model, batches, proxy)


def test_images_that_cannot_be_told_apart_are_refused(model: Small, batches: list[Batch]) -> None:
    batches[0][0][1] = batches[0][0][0]
    with pytest.raises(ValueError, match="the score 'naswot' is -inf"):
        score(model, batches[:1], "naswot")
