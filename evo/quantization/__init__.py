"""Weights in few bits: the uniform symmetric quantiser."""

from evo.quantization.uniform import (
    QUANTISABLE,
    dequantize,
    pack,
    quantize,
    quantize_,
    quantized_weights,
    represent,
    unpack,
    weight_dim,
)

__all__ = [
    "QUANTISABLE",
    "dequantize",
    "pack",
    "quantize",
    "quantize_",
    "quantized_weights",
    "represent",
    "unpack",
    "weight_dim",
]
