"""The built-in encodings; `ENCODINGS` names them."""

from evo.encodings.base import Encoding
from evo.encodings.channel_vector import ChannelVector
from evo.encodings.filter_bits import FilterBits
from evo.encodings.layer_policy import LayerPolicy

ENCODINGS: dict[str, type[Encoding]] = {
    "filter_bits": FilterBits,
    "channel_vector": ChannelVector,
    "layer_policy": LayerPolicy,
}
