"""Exact integer costs of candidates as array arithmetic over kept-channel counts, for one blueprint or a population."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from evo.blueprint import FULL_BITS
from evo.columns import Column, table
from evo.errors import NetworkError, SettingsError, unknown_name
from evo.network.cost_plan import Affine, CostPlan, IntArray, Terms, check_range

COSTS = {
    "params": "learnable parameters",
    "weights": "weights of convolutional and linear layers, biases and normalisation left out (M of ECS eq. 6)",
    "macs": "multiply-accumulate operations of convolutional and linear layers for one input",
    "bytes": "bytes of all learnable parameters; weights of few bits are packed, with a scale per filter",
    "feature_maps": "values in the outputs of all convolutional and linear layers for one input (ECS eq. 11)",
    "peak_memory": "bytes of activations alive at once, at most, in a forward pass of one input",
}

UNITS = {
    "params": "parameters",
    "weights": "weights",
    "macs": "multiply-accumulates",
    "bytes": "bytes",
    "feature_maps": "values",
    "peak_memory": "bytes",
}
"""What the costs count."""

LAYERS = {
    "layer": Column("dotted name of the layer, and at the end of all of them together, total", "str"),
    "filters": Column("output channels of the original", "int64"),
    "kept_filters": Column("output channels of the candidate", "int64"),
    "pruned": Column("share of the filters that is gone, from 0 to 1", "float64"),
    "weights": Column("weights of the original, biases left out", "int64"),
    "kept_weights": Column("weights of the candidate, biases left out", "int64"),
    "macs": Column("multiply-accumulate operations of the original for one input", "int64"),
    "kept_macs": Column("multiply-accumulate operations of the candidate for one input", "int64"),
    "feature_maps": Column("values in the outputs of the original for one input", "int64"),
    "kept_feature_maps": Column("values in the outputs of the candidate for one input", "int64"),
    "bits": Column("bits per weight of the candidate; in total their mean over its weights", "float64", "bits"),
    "bytes": Column("size of the original's weights", "int64", "bytes"),
    "kept_bytes": Column("size of the candidate's weights, with the scales of quantised layers", "int64", "bytes"),
    "r_c": Column("compression, ECS eq. 10: weights / kept_weights, whatever their bits", "float64"),
    "r_s": Column("speed-up, ECS eq. 9: macs / kept_macs", "float64"),
    "r_f": Column("ratio of feature maps, ECS eq. 11: feature_maps / kept_feature_maps", "float64"),
}
"""The columns of a candidate's table of layers."""

_SUMS = ("params", "weights", "macs", "feature_maps")
"""The costs that are polynomials of the counts; "bytes" follows from "params", and "peak_memory" is a maximum."""

SCALE_BYTES = 4
"""Bytes of the scale of one output channel of a quantised layer."""

RESOLUTION = 0.2
"""How much more a layer that works at a high resolution counts in `CostModel.capacity`."""


@dataclass(frozen=True)
class Width:
    """Length of a tensor dimension as a function of kept channels: (fixed + Σ entries · count) / divisor.

    Attributes:
        fixed: entries that are always there.
        groups: (index of the coupling group, entries per kept channel).
        divisor: of a grouped convolution, for instance, each group of which reads an equal share of the inputs. The
            quotient is an integer for every count that the network can be built with.
    """

    fixed: int
    groups: tuple[tuple[int, int], ...] = ()
    divisor: int = 1


@dataclass(frozen=True)
class LayerCost:
    """Shape of one layer: what its costs are made of.

    Its weights are kernel · fan_in · outputs, its multiply-accumulate operations weights · uses.

    Attributes:
        name: dotted name of the layer, or of a bare parameter.
        kernel: weights per pair of an input and an output: kernel height × width, 1 for a linear layer.
        inputs, outputs: channels (features) read and produced.
        fan_in: inputs that one output reads: the inputs, divided by the groups of a grouped convolution, 1 if depthwise.
        uses: how often each weight is multiplied for one input, summed over calls: output positions H′·W′ of a
            convolution, input positions of a transposed one, rows of a linear layer.
        positions: values per output channel for one input, summed over calls (ECS eq. 11).
    """

    name: str
    kernel: int
    inputs: Width
    outputs: Width
    fan_in: Width
    uses: int
    positions: int


class CostModel:
    """Costs of every candidate of one network.

    Counts are integer arrays of shape (G,) for one candidate or (N, G) for a population: kept channels of each coupling
    group in the order of the network's groups, from 0 to its size. All results are exact int64.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        layers: Sequence[LayerCost],
        *,
        others: Sequence[Width] = (),
        bytes_per_parameter: int = 4,
        activations: Sequence[Width] = (),
    ) -> None:
        """Take what the costs are made of.

        Args:
            sizes: original channels of every coupling group, shape (G,).
            layers: every layer with weights that multiply.
            others: widths of all other parameters (biases, normalisation).
            bytes_per_parameter: of the network's type of numbers.
            activations: bytes alive after each operation of a forward pass of one input; without them, "peak_memory" is 0.
        """
        self.sizes: IntArray = np.asarray(sizes, dtype=np.int64)
        self.layers = tuple(layers)
        self.bytes_per_parameter = bytes_per_parameter
        self.others = tuple(others)
        self.activations = tuple(activations)

    def costs(
        self, counts: ArrayLike, names: Iterable[str] | None = None, bits: ArrayLike | None = None
    ) -> dict[str, IntArray]:
        """Return costs, each of shape (…) for counts of shape (…, G).

        Arithmetic is in float64 as long as the results are below 2^53, hence exact, and in int64 beyond.

        Args:
            counts: kept channels; any integer type. A population is fastest as one C- or Fortran-ordered array.
            names: those to return, in this order; default all of `COSTS`.
            bits: of the layers' weights, as `bytes` takes them, which is all that they change; default none are quantised.

        Raises:
            SettingsError: an unknown name, or counts or bits of the wrong shape, type or range.
            NetworkError: a cost does not fit into 64 bits.
        """
        wanted = tuple(COSTS) if names is None else tuple(names)
        for name in wanted:
            if name not in COSTS:
                raise SettingsError(unknown_name("cost", name, COSTS))
        kept = self._shaped(counts)
        population = np.atleast_2d(kept)
        found = self._plan(population, sums=wanted != ("peak_memory",), peak="peak_memory" in wanted)
        if found is None:
            found = self._exactly(population)
        values = dict(zip((*_SUMS, "peak_memory"), found, strict=True))
        if "bytes" in wanted:
            values["bytes"] = values["params"] * self.bytes_per_parameter if bits is None else self.bytes(kept, bits)
        return {name: values[name].reshape(kept.shape[:-1]) for name in wanted}

    def _exactly(self, counts: IntArray) -> IntArray:
        """Return the sums and peak memory in int64, shape (K + 1, N): for numbers that float64 would round."""
        most = counts.max(0).astype(object)  # unlimited integers; no cost falls with any count
        largest = max(*self._terms(most), *self._alive(most))
        if largest * self.bytes_per_parameter >= 2**63:
            raise NetworkError(f"costs: got up to {largest}, which does not fit into 64 bits")
        kept = counts.astype(np.int64)
        return np.concatenate([self._terms(kept), self._alive(kept).max(-1, keepdims=True)], axis=-1).T

    def weights(self, counts: ArrayLike) -> IntArray:
        """Return the weights of every layer: shape (…, L)."""
        kept = self._kept(counts)
        return np.asarray(self._kernels * self._fan_in(kept) * self._outputs(kept))

    def filters(self, counts: ArrayLike) -> IntArray:
        """Return the output channels (features) of every layer: shape (…, L)."""
        return np.asarray(self._outputs(self._kept(counts)))

    def bytes(self, counts: ArrayLike, bits: ArrayLike) -> IntArray:
        """Return the bytes of candidates whose layers have weights of fewer bits: shape (…).

        Those of `layer_bytes`, and `bytes_per_parameter` for each parameter that is not a layer's weight.
        """
        kept = self._kept(counts)
        others = self._others(kept).sum(-1) * self.bytes_per_parameter
        return np.asarray(self.layer_bytes(kept, bits).sum(-1) + others)

    def layer_bytes(self, counts: ArrayLike, bits: ArrayLike) -> IntArray:
        """Return the bytes of every layer's weights and their scales: shape (…, L).

        A layer of b < 32 bits takes ⌈weights · b / 8⌉ bytes and a scale of 4 bytes per output channel. One of 32 bits stays
        as it is: it takes `bytes_per_parameter` for each weight.

        Args:
            counts: shape (…, G).
            bits: integers from 1 to 32 in the order of `layers`, shape (L,) for all candidates or (…, L).

        Raises:
            SettingsError: bits or counts of another shape, type or range.
        """
        kept = self._kept(counts)
        depth = np.asarray(bits)
        shapes = {(len(self.layers),), (*kept.shape[:-1], len(self.layers))}
        if depth.dtype.kind not in "iu" or depth.shape not in shapes:
            raise SettingsError(
                f"bits: got {depth.dtype} of shape {depth.shape}, expected integers of shape "
                f"{' or '.join(map(str, sorted(shapes)))}, one per layer"
            )
        wrong = depth[(depth < 1) | (depth > FULL_BITS)]
        if wrong.size:
            raise SettingsError(f"bits: got {wrong[0]}, expected 1 to 32, where 32 leaves a layer as it is")
        weights, depth = self.weights(kept), depth.astype(np.int64)
        packed = -(-weights * depth // 8) + SCALE_BYTES * self._outputs(kept)
        return np.where(depth < FULL_BITS, packed, weights * self.bytes_per_parameter)

    def bits_of(self, bits: Mapping[str, int]) -> IntArray:
        """Return weight bits per layer, shape (L,), from those of the quantised layers by name, as `bytes` takes them.

        Raises:
            NetworkError: there is no layer of a name. Layers that share a weight are one layer here, named by the first.
        """
        found = np.full(len(self.layers), FULL_BITS, dtype=np.int64)
        for name, count in bits.items():
            if name not in self._index:
                raise NetworkError(f"bits: {unknown_name('layer with a weight of its own', name, self._index)}")
            found[self._index[name]] = count
        return found

    @property
    def positions(self) -> IntArray:
        """Output positions of every layer for one input, shape (L,)."""
        return np.array([layer.positions for layer in self.layers], dtype=np.int64)

    def removed(self, counts: ArrayLike, variant: str) -> NDArray[np.float64]:
        """Return the share of the network that is gone, in [0, 1], shape (…): the second term of ECS's fitness.

        Variants: "weights", exact share of the weights that are gone; "eq4", share of the filters; "eq6", filters weighted
        by their original size; "eq7", weights that lost both their input and their output, as ECS eq. 7 prints it. Filters
        count in every layer they belong to; the classifier's are never removed.
        """
        kept = self._kept(counts)
        outputs, weights = self._outputs(self.sizes), self.weights(self.sizes)
        everything = float(weights.sum())
        gone_outputs = outputs - self._outputs(kept)
        without_output = weights / outputs * gone_outputs
        gone: NDArray[np.float64]
        if variant == "weights":
            gone = (everything - self.weights(kept).sum(-1)) / everything
        elif variant == "eq4":
            prunable = self._outputs.varies
            gone = (gone_outputs * prunable).sum(-1) / float((outputs * prunable).sum())
        elif variant == "eq6":
            gone = without_output.sum(-1) / everything
        elif variant == "eq7":
            inputs = self._inputs(self.sizes)
            without_input = weights / inputs * (inputs - self._inputs(kept))
            # Weights without either are those without input, those without output, less those without one of them.
            gone = (without_input + without_output - (weights - self.weights(kept))).sum(-1) / everything
        else:
            raise ValueError(f"unknown variant {variant!r}; known are weights, eq4, eq6, eq7")
        return gone

    def capacity(self, counts: ArrayLike, resolution: float = RESOLUTION) -> NDArray[np.float64]:
        """Return Σ over layers of r^resolution · log(number of weights), shape (…): a score of widths, larger is better.

        r in (0, 1] is a layer's number of output positions as a share of the largest: weights that work at a high resolution
        count more. The exponent was chosen on a random half of Channel-Bench-Macro; with 0, all layers count alike.

        Args:
            counts: kept channels, at least one per group, shape (…, G).
            resolution: how much the resolution matters, at least 0.
        """
        kept = self._kept(counts)
        logarithms = np.log(self._fan_in.real(kept) * self._outputs.real(kept) * self._kernels)
        return np.asarray((logarithms * relative_positions(self.positions) ** resolution).sum(-1))

    def table(self, counts: ArrayLike, bits: ArrayLike | None = None) -> pd.DataFrame:
        """Return ECS's report of one candidate (Tables 2 to 4): a row per layer, indexed by name, and "total".

        Columns are those of `LAYERS`.

        Args:
            counts: kept channels, shape (G,).
            bits: of the layers' weights, shape (L,); default none are quantised.
        """
        kept = self._kept(counts)
        depth = np.full(len(self.layers), FULL_BITS, dtype=np.int64) if bits is None else np.asarray(bits)
        whole = np.full_like(depth, FULL_BITS)
        uses = np.array([layer.uses for layer in self.layers], dtype=np.int64)
        values: dict[str, NDArray[Any]] = {"layer": np.array([layer.name for layer in self.layers] + ["total"])}
        for prefix, widths, widths_bits in (("", self.sizes, whole), ("kept_", kept, depth)):
            columns = {
                "filters": self._outputs(widths),
                "weights": self.weights(widths),
                "macs": self.weights(widths) * uses,
                "feature_maps": self._outputs(widths) * self.positions,
                "bytes": self.layer_bytes(widths, widths_bits),
            }
            values |= {prefix + name: np.append(column, column.sum()) for name, column in columns.items()}
        weights = values["kept_weights"]
        values["pruned"] = (values["filters"] - values["kept_filters"]) / values["filters"]
        with np.errstate(divide="ignore", invalid="ignore"):  # of a layer that keeps nothing
            values["bits"] = np.append(depth, (depth * weights[:-1]).sum() / weights[-1])
            for ratio, name in (("r_c", "weights"), ("r_s", "macs"), ("r_f", "feature_maps")):
                values[ratio] = values[name] / values[f"kept_{name}"]
        return table(values, LAYERS).set_index("layer")

    def _kept(self, counts: ArrayLike) -> IntArray:
        """Return counts as int64 that are between 0 and the groups' sizes."""
        kept = self._shaped(counts).astype(np.int64)
        check_range(np.atleast_2d(kept).T, self.sizes)
        return kept

    def _shaped(self, counts: ArrayLike) -> IntArray:
        """Return counts as an array of integers, of whichever type they are."""
        kept = np.asarray(counts)
        if kept.dtype.kind not in "iu" or kept.ndim not in (1, 2) or kept.shape[-1] != len(self.sizes):
            raise SettingsError(
                f"counts: got {kept.dtype} of shape {kept.shape}, expected integers of shape ({len(self.sizes)},) or "
                f"(N, {len(self.sizes)}), kept channels of every coupling group"
            )
        return kept

    def _affine(self, widths: Sequence[Width]) -> Affine:
        numerators = np.zeros((len(widths), len(self.sizes) + 1), dtype=np.int64)
        for row, width in zip(numerators, widths, strict=True):
            row[-1] = width.fixed
            for group, entries in width.groups:
                row[group] += entries
        return Affine(numerators, np.array([width.divisor for width in widths], dtype=np.int64))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {layer.name: index for index, layer in enumerate(self.layers)}

    @cached_property
    def _inputs(self) -> Affine:
        return self._affine([layer.inputs for layer in self.layers])

    @cached_property
    def _fan_in(self) -> Affine:
        return self._affine([layer.fan_in for layer in self.layers])

    @cached_property
    def _outputs(self) -> Affine:
        return self._affine([layer.outputs for layer in self.layers])

    @cached_property
    def _others(self) -> Affine:
        return self._affine(self.others)

    @cached_property
    def _alive(self) -> Affine:
        return self._affine(self.activations or (Width(0),))

    @cached_property
    def _kernels(self) -> IntArray:
        return np.array([layer.kernel for layer in self.layers], dtype=np.int64)

    @cached_property
    def _terms(self) -> Terms:
        """The costs of `_SUMS` as products: fan-in times outputs for weights, outputs, and other parameters, times 1."""
        one, none = Width(1), (0, 0, 0, 0)
        terms = [(one, one, none)]  # even a network without layers has a term
        for layer in self.layers:
            terms.append((layer.fan_in, layer.outputs, (layer.kernel, layer.kernel, layer.kernel * layer.uses, 0)))
            terms.append((layer.outputs, one, (0, 0, 0, layer.positions)))
        terms += [(width, one, (1, 0, 0, 0)) for width in self.others]
        left, right, coefficients = zip(*terms, strict=True)
        return Terms(self._affine(left), self._affine(right), np.array(coefficients, dtype=np.int64).T)

    @cached_property
    def _plan(self) -> CostPlan:
        return CostPlan(self._terms, self._alive, self.sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return the model as plain values for JSON."""
        return {
            "sizes": self.sizes.tolist(),
            "layers": [asdict(layer) for layer in self.layers],
            "others": [asdict(width) for width in self.others],
            "bytes_per_parameter": self.bytes_per_parameter,
            "activations": [asdict(width) for width in self.activations],
        }

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> "CostModel":
        """Make the model that `to_dict` described."""

        def width(entry: Mapping[str, Any]) -> Width:
            return Width(
                entry["fixed"], tuple((group, entries) for group, entries in entry["groups"]), entry["divisor"]
            )

        return cls(
            described["sizes"],
            [
                LayerCost(**{**layer, **{name: width(layer[name]) for name in ("inputs", "outputs", "fan_in")}})
                for layer in described["layers"]
            ],
            others=[width(entry) for entry in described["others"]],
            bytes_per_parameter=described["bytes_per_parameter"],
            activations=[width(entry) for entry in described["activations"]],
        )


def relative_positions(positions: ArrayLike) -> NDArray[np.float64]:
    """Return the layers' numbers of output positions as shares of the largest, shape (L,)."""
    values = np.asarray(positions, dtype=np.float64)
    return np.asarray(values / values.max())
