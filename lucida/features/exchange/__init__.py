"""Features in the formats of other tools, both ways; docs/feature-formats.md specifies them."""

from lucida.features.exchange.feature_json import feature_document, parse_feature, read_feature_json, write_feature_json
from lucida.features.exchange.into_index import import_pack
from lucida.features.exchange.neuronpedia import write_neuronpedia
from lucida.features.exchange.neuronpedia_reader import import_neuronpedia
from lucida.features.exchange.packs import FeaturePack, is_pack, write_pack
from lucida.features.exchange.portable import PortableExample, PortableFeature, portable_feature, portable_features

__all__ = [
    "FeaturePack",
    "PortableExample",
    "PortableFeature",
    "feature_document",
    "import_neuronpedia",
    "import_pack",
    "is_pack",
    "parse_feature",
    "portable_feature",
    "portable_features",
    "read_feature_json",
    "write_feature_json",
    "write_neuronpedia",
    "write_pack",
]
