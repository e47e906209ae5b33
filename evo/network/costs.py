"""Exact integer costs of candidates as array arithmetic over kept-channel counts, for one blueprint or a population."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]

COSTS = {
    "params": "learnable parameters",
    "weights": "weights of convolutional and linear layers, biases and normalisation left out (M of ECS eq. 6)",
    "macs": "multiply-accumulate operations of convolutional and linear layers for one input",
    "bytes": "bytes of all learnable parameters",
    "feature_maps": "values in the outputs of all convolutional and linear layers for one input (ECS eq. 11)",
}


@dataclass(frozen=True)
class Width:
    """Length of a tensor dimension: `fixed` entries plus, for every (group, entries per channel), the kept channels."""

    fixed: int
    groups: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class LayerCost:
    """Shape of one convolutional or linear layer: what its costs are made of.

    Attributes:
        name: dotted layer name.
        kernel: kernel height × width, 1 for a linear layer.
        inputs, outputs: channels (features) read and produced.
        positions: output positions H′·W′ for one input, summed over calls.
        groups: groups of a grouped convolution, each reading an equal share of the inputs.
    """

    name: str
    kernel: int
    inputs: Width
    outputs: Width
    positions: int = 1
    groups: int = 1


class CostModel:
    """Costs of every candidate of one network.

    Counts are int arrays of shape (G,) for one candidate or (N, G) for a population: kept channels of each coupling group
    in the order of the network's groups. All results are exact int64.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        layers: Sequence[LayerCost],
        *,
        others: Sequence[Width] = (),
        bytes_per_parameter: int = 4,
    ) -> None:
        """Take the groups' original `sizes`, the layers, and the one-dimensional parameters besides their weights."""
        self.sizes: IntArray = np.asarray(sizes, dtype=np.int64)
        self.layers = tuple(layers)
        self.bytes_per_parameter = bytes_per_parameter
        self._others = tuple(others)

    @cached_property
    def _matrices(self) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
        inputs, in_fixed = self._affine([layer.inputs for layer in self.layers])
        outputs, out_fixed = self._affine([layer.outputs for layer in self.layers])
        others, other_fixed = self._affine(self._others)
        return inputs, in_fixed, outputs, out_fixed, np.append(others.sum(0), other_fixed.sum())

    def _affine(self, widths: Sequence[Width]) -> tuple[IntArray, IntArray]:
        matrix = np.zeros((len(widths), len(self.sizes)), dtype=np.int64)
        for row, width in enumerate(widths):
            for group, entries in width.groups:
                matrix[row, group] += entries
        return matrix, np.array([width.fixed for width in widths], dtype=np.int64)

    def widths(self, counts: ArrayLike) -> tuple[IntArray, IntArray]:
        """Return the layers' input and output widths, each of shape (…, L)."""
        inputs, in_fixed, outputs, out_fixed, _ = self._matrices
        kept = np.asarray(counts, dtype=np.int64)
        return kept @ inputs.T + in_fixed, kept @ outputs.T + out_fixed

    @cached_property
    def kernels(self) -> IntArray:
        """Weights per (input, output) pair of every layer, before grouping: shape (L,)."""
        return np.array([layer.kernel for layer in self.layers], dtype=np.int64)

    @cached_property
    def positions(self) -> IntArray:
        """Output positions of every layer: shape (L,)."""
        return np.array([layer.positions for layer in self.layers], dtype=np.int64)

    @cached_property
    def _groups(self) -> IntArray:
        return np.array([layer.groups for layer in self.layers], dtype=np.int64)

    def weights(self, counts: ArrayLike) -> IntArray:
        """Return the weights of every layer: shape (…, L)."""
        inputs, outputs = self.widths(counts)
        return self.kernels * (inputs // self._groups) * outputs

    def costs(self, counts: ArrayLike) -> dict[str, IntArray]:
        """Return every cost named in `COSTS`, each of shape (…)."""
        weights = self.weights(counts)
        total = weights.sum(-1)
        linear = self._matrices[-1]
        params = total + np.asarray(counts, dtype=np.int64) @ linear[:-1] + linear[-1]
        return {
            "params": params,
            "weights": total,
            "macs": (weights * self.positions).sum(-1),
            "bytes": params * self.bytes_per_parameter,
            "feature_maps": (self.widths(counts)[1] * self.positions).sum(-1),
        }

    def removed(self, counts: ArrayLike, variant: str) -> NDArray[np.float64]:
        """Return the share of the network that is gone, in [0, 1], shape (…): the second term of ECS's fitness.

        Variants: "weights", exact share of the weights that are gone; "eq4", share of the filters; "eq6", filters weighted
        by their original size; "eq7", weights that lost both their input and their output, as ECS eq. 7 prints it. Filters
        count in every layer they belong to; the classifier's are never removed.
        """
        inputs, outputs = self.widths(self.sizes)
        kept_inputs, kept_outputs = self.widths(counts)
        kernels = self.kernels / self._groups
        everything = float(self.weights(self.sizes).sum())
        gone: NDArray[np.float64]
        if variant == "weights":
            gone = (everything - self.weights(counts).sum(-1)) / everything
        elif variant == "eq4":
            prunable = np.array([bool(layer.outputs.groups) for layer in self.layers])
            gone = ((outputs - kept_outputs) * prunable).sum(-1) / float((outputs * prunable).sum())
        elif variant == "eq6":
            gone = (kernels * inputs * (outputs - kept_outputs)).sum(-1) / everything
        elif variant == "eq7":
            gone = (kernels * (inputs - kept_inputs) * (outputs - kept_outputs)).sum(-1) / everything
        else:
            raise ValueError(f"unknown variant {variant!r}; known are weights, eq4, eq6, eq7")
        return gone

    def table(self, counts: ArrayLike) -> pd.DataFrame:
        """Return ECS's report of one candidate (Tables 2 to 4): a row per layer, indexed by name, and "total".

        Columns: `filters` and `weights` of the original and `kept_filters`, `kept_weights` of the candidate; compression
        `r_c` (eq. 10, weights), speed-up `r_s` (eq. 9, multiplications), feature-map ratio `r_f` (eq. 11). With weights of
        8 bits instead of 32, r_c is four times as large.
        """
        _, filters = self.widths(self.sizes)
        _, kept_filters = self.widths(counts)
        frame = pd.DataFrame(
            {
                "filters": filters,
                "kept_filters": kept_filters,
                "weights": self.weights(self.sizes),
                "kept_weights": self.weights(counts),
            },
            index=pd.Index([layer.name for layer in self.layers], name="layer"),
        )
        before, after = self.costs(self.sizes), self.costs(counts)
        frame["r_c"] = frame["r_s"] = frame["weights"] / frame["kept_weights"]
        frame["r_f"] = frame["filters"] / frame["kept_filters"]
        total = {
            **frame[["filters", "kept_filters", "weights", "kept_weights"]].sum().to_dict(),
            "r_c": before["weights"] / after["weights"],
            "r_s": before["macs"] / after["macs"],
            "r_f": before["feature_maps"] / after["feature_maps"],
        }
        frame.loc["total"] = pd.Series(total)
        integers = ["filters", "kept_filters", "weights", "kept_weights"]
        return frame.astype(dict.fromkeys(integers, "int64"))

    def to_dict(self) -> dict[str, Any]:
        """Return the model as plain values for JSON."""
        return {
            "sizes": self.sizes.tolist(),
            "layers": [asdict(layer) for layer in self.layers],
            "others": [asdict(width) for width in self._others],
            "bytes_per_parameter": self.bytes_per_parameter,
        }

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> "CostModel":
        """Make the model that `to_dict` described."""

        def width(entry: Mapping[str, Any]) -> Width:
            return Width(entry["fixed"], tuple((group, entries) for group, entries in entry["groups"]))

        layers = [
            LayerCost(**{**layer, "inputs": width(layer["inputs"]), "outputs": width(layer["outputs"])})
            for layer in described["layers"]
        ]
        return cls(
            described["sizes"],
            layers,
            others=[width(entry) for entry in described["others"]],
            bytes_per_parameter=described["bytes_per_parameter"],
        )
