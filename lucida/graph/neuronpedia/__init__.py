"""The attribution-graph JSON of Anthropic's front end and Neuronpedia, written and read."""

from lucida.graph.neuronpedia.reader import read_neuronpedia
from lucida.graph.neuronpedia.writer import NeuronpediaExport, write_neuronpedia

__all__ = ["NeuronpediaExport", "read_neuronpedia", "write_neuronpedia"]
