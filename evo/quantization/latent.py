"""The weights of full precision that quantised ones were made from, noted on a network for training to begin with."""

from collections.abc import Mapping

from torch import Tensor, nn

from evo.quantization.uniform import quantize_, quantized_weights

ATTRIBUTE = "_evo_latent"


def quantize_keeping(model: nn.Module, bits: Mapping[str, int]) -> nn.Module:
    """Quantise the named layers' weights in place (`quantize_`), note on `model` what they were, and return it.

    Raises:
        SettingsError, NetworkError: as `quantize_`.
    """
    weights = {name: weight.detach().clone() for weight, (name, _, _) in quantized_weights(model, bits).items()}
    quantize_(model, bits)
    object.__setattr__(model, ATTRIBUTE, weights)
    return model


def latent(model: nn.Module) -> Mapping[str, Tensor]:
    """Return the weights that `quantize_keeping` noted, by dotted layer name; none if it has not, or they are forgotten."""
    found: Mapping[str, Tensor] = getattr(model, ATTRIBUTE, {})
    return found


def forget(model: nn.Module) -> None:
    """Remove the note, once the weights have become others."""
    if hasattr(model, ATTRIBUTE):
        object.__delattr__(model, ATTRIBUTE)
