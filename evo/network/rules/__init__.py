"""How channel numbers travel through each operation: the rules that `evo.network.trace` applies.

A rule is right if removing the entries of a channel from its inputs removes the entries it hands on from its outputs, and
changes nothing else. `evo.network.proof` checks the outcome, so that a rule may hope for the usual meaning where a trace
cannot tell, e.g. that a split into halves stays a split into halves.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evo.network.rules import channels, contractions, dimensions, elementwise, norms, shapes
from evo.network.rules.call import Call, Rule
from evo.network.trace import Tracer

# Everything that torch tags as pointwise or as a reduction needs no entry in the tables.
POINTWISE = frozenset(
    (
        *("_prelu_kernel", "_to_copy", "bernoulli", "celu", "clone", "copy", "dropout", "elu", "fill", "gelu"),
        *("hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_sigmoid_forward", "masked_fill"),
        *("mish", "native_dropout", "normal", "random", "relu6", "rrelu_with_noise", "selu", "silu", "softplus"),
        *("softshrink", "threshold", "uniform", "where", "zero"),
    )
)
SPATIAL = (
    *("max_pool", "avg_pool", "adaptive_", "_adaptive_", "upsample_", "_upsample_"),
    *("reflection_pad", "replication_pad", "grid_sampler_"),
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias", "permute", "transpose", "t", "unsqueeze"), shapes.view),
    **dict.fromkeys(("squeeze", "detach", "alias", "lift_fresh", "repeat", "movedim"), shapes.view),
    "as_strided": shapes.laid_out,
    "expand": shapes.expand,
    **dict.fromkeys(("split", "split_with_sizes", "unbind", "unsafe_split"), shapes.divide),
    "slice": shapes.part,
    **dict.fromkeys(("select", "index_select", "narrow_copy"), shapes.select),
    "index": shapes.indexed,
    "cat": shapes.concatenate,
    "stack": shapes.stack,
    "constant_pad_nd": shapes.pad,
    **dict.fromkeys(
        ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"), elementwise.created_like
    ),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full"), elementwise.plain),
    "new_empty": elementwise.created_of_size,
    "pixel_shuffle": channels.pixel_shuffle,
    "pixel_unshuffle": channels.pixel_unshuffle,
    "im2col": channels.unfold,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), channels.channel_shuffle),
    "glu": channels.gated_halves,
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), dimensions.spatial),
    **dict.fromkeys(("linalg_vector_norm", "norm", "var_mean", "std_mean", "logsumexp"), dimensions.reduction),
    **dict.fromkeys(("_softmax", "_log_softmax", "cumsum", "flip", "roll"), dimensions.dimension),
    **dict.fromkeys(("native_batch_norm", "cudnn_batch_norm"), norms.batch_norm),
    **dict.fromkeys(("_native_batch_norm_legit", "_native_batch_norm_legit_no_training"), norms.batch_norm),
    "native_layer_norm": norms.layer_norm,
    "native_group_norm": norms.group_norm,
    "convolution": contractions.convolution,
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), contractions.multiply),
}


def apply(
    tracer: Tracer,
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
) -> None:
    """Follow the numbers through one operation; one without a rule freezes whatever it touches."""
    # A weight of a single entry has no numbers, but its layer counts.
    if not any(tracer.numbers(tensor) or tracer.root(tensor) for tensor in inputs):
        return
    name = func._schema.name.removeprefix("aten::").rstrip("_")
    rule = RULES.get(name) or _general_rule(func, name)
    if rule is None or func._overloadname == "dtype":
        tracer.freeze_all(inputs, f"{name} mixes its channels in a way that is not known here")
    else:
        rule(tracer, Call(func, name, _bound(func, args, kwargs), tuple(inputs), tuple(outputs)))


def _general_rule(func: Any, name: str) -> Rule | None:
    if torch.Tag.pointwise in func.tags or name in POINTWISE:
        return elementwise.pointwise
    if torch.Tag.reduction in func.tags:
        return dimensions.reduction
    if name[-2:] in ("1d", "2d", "3d") and name.startswith(SPATIAL):
        return dimensions.spatial
    return None


def _bound(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return every argument of the operation by its name in the schema."""
    names, defaults = _signature(func)
    return defaults | dict(zip(names, args, strict=False)) | kwargs


@functools.cache
def _signature(func: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Return the names of the arguments in order, and the default values of those that have one."""
    schema = func._schema.arguments
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return tuple(argument.name for argument in schema), defaults
