"""One step of training, for networks that are too large for more."""

import torch
from torch import nn


def assert_learns(model: nn.Module, shape: tuple[int, ...], classes: int) -> None:
    """Assert that one gradient step on four random images reaches every parameter and lowers their loss.

    Args:
        model: an untrained network, on a device with values.
        shape: of one image, without the batch.
        classes: width of its output.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, *shape, generator=generator)
    labels = torch.arange(4) % classes
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    scores = model(images)
    assert scores.shape == (4, classes)
    before = nn.functional.cross_entropy(scores, labels)
    before.backward()  # type: ignore[no-untyped-call]
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    optimizer.step()
    with torch.no_grad():
        assert nn.functional.cross_entropy(model(images), labels) < before
