"""The built-in encodings; `ENCODINGS` names them."""

from evo.encodings.base import Encoding
from evo.encodings.channel_vector import ChannelVector
from evo.encodings.filter_bits import FilterBits
from evo.encodings.layer_policy import LayerPolicy
from evo.plugins import Registry, subclass_of

ENCODINGS: Registry[type[Encoding]] = Registry(
    "encoding",
    "evo.encodings",
    {"filter_bits": FilterBits, "channel_vector": ChannelVector, "layer_policy": LayerPolicy},
    subclass_of(Encoding),
)
