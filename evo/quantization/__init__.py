"""Weights in few bits: the uniform symmetric quantiser."""

from evo.quantization.uniform import dequantize, pack, quantize, quantize_, represent, unpack, weight_dim

__all__ = ["dequantize", "pack", "quantize", "quantize_", "represent", "unpack", "weight_dim"]
