"""What a user brings: a trained network and labelled data."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from evo.errors import DataError, NetworkError, SettingsError
from evo.network import Network
from evo.training.data import Samples, SizedDataset, load_samples, split

Data = Samples | SizedDataset | tuple[Any, Any]


class Task:
    """A trained network with the data to judge smaller ones by.

    Attributes:
        network: the analysed network; candidates are built from it.
        train: images for fine-tuning.
        val: images that fitness is measured on; never trained on.
        test: images kept out of the search altogether, for the final figures; None if there are none.
    """

    train: Samples
    val: Samples
    test: Samples | None

    def __init__(
        self,
        model: nn.Module | Network,
        train: Data,
        val: "Data | float" = 0.1,
        *,
        test: Data | None = None,
        seed: int = 0,
        protect: Sequence[str] = (),
        multiple: int = 1,
    ) -> None:
        """Decode the data and analyse the network; `model` is copied and left as it is.

        Args:
            model: the trained network; called with a batch of inputs, returns class scores (N, classes). One that was
                analysed before need not be analysed again.
            train: see `load_samples` for what is accepted.
            val: likewise, or a fraction in (0, 1) of the training images, split off at random in equal shares per class.
            test: likewise.
            seed: of that split.
            protect: names or patterns ("head.*") of layers whose channels all stay.
            multiple: layers keep a multiple of this many channels, or all (8 suits tensor cores).

        Raises:
            DataError: data are malformed, or sets disagree in shape.
            NetworkError: the network cannot be run on the data or has nothing to prune.
            SettingsError: a pattern matches no layer, `multiple` is less than 1, or they are given for an analysed network.
        """
        if not isinstance(model, nn.Module | Network):
            raise SettingsError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        self.train = load_samples(train, "train")
        if isinstance(val, int | float):
            if not 0 < val < 1:
                raise SettingsError(f"val: a fraction of the training images lies between 0 and 1, got {val}")
            self.train, self.val = split(self.train, float(val), np.random.default_rng(seed))
        else:
            self.val = load_samples(val, "val")
        self.test = None if test is None else load_samples(test, "test")
        for name, other in (("val", self.val), ("test", self.test)):
            if other is not None and other.x.shape[1:] != self.train.x.shape[1:]:
                raise DataError(
                    f"{name}: images have shape {tuple(other.x.shape[1:])}, "
                    f"those of train {tuple(self.train.x.shape[1:])}"
                )
        if isinstance(model, Network):
            if protect or multiple != 1:
                raise SettingsError("protect, multiple: the network is analysed already; give them to Network.analyse")
            self.network = model
        else:
            self.network = Network.analyse(model, self.train.x[:2], protect=protect, multiple=multiple)
        if not self.network.groups:
            reasons = "; ".join(f"{entry.name or 'network'}: {entry.reason}" for entry in self.network.frozen)
            raise NetworkError(
                f"{type(model).__name__} has nothing that can be pruned ({reasons or 'it has no layers'})"
            )
        self._check_output()

    def _check_output(self) -> None:
        with torch.no_grad():
            scores = self.network.build(self.network.full)(self.train.x[:1])
        classes = max(part.classes for part in (self.train, self.val, self.test) if part is not None)
        if not isinstance(scores, torch.Tensor) or scores.dim() != 2:
            raise DataError("model: expected one tensor of class scores (N, classes) as the network's output")
        if scores.shape[1] < classes:
            raise DataError(f"model: it has {scores.shape[1]} outputs, but labels go up to {classes - 1}")

    def digest(self) -> str:
        """Return a hexadecimal content hash of network and data."""
        digest = hashlib.sha256(self.network.digest().encode())
        for part in (self.train, self.val):
            digest.update(part.digest.encode())
        return digest.hexdigest()[:32]

    def describe(self) -> dict[str, str]:
        """Return the content hashes that identify the task in a run folder."""
        return {"network": self.network.digest(), "train": self.train.digest, "val": self.val.digest}
