"""How good are the features a model is seen through? Reconstruction, replacement model, graphs, faithfulness."""

from lucida.evaluation.basis import Basis, DictionaryBasis, NeuronBasis, neurons_of_l0
from lucida.evaluation.disagreement import Disagreement, SkipTest, compare_stories, measure_skips
from lucida.evaluation.evaluate import evaluate
from lucida.evaluation.faithfulness import Correlation, Faithfulness, measure_faithfulness
from lucida.evaluation.graphs import GraphMeasures, GraphOptions, PromptScores, measure_graphs
from lucida.evaluation.prompts import (
    EvaluationPrompt,
    PromptRules,
    PromptSet,
    choose_prompts,
    given_prompts,
    read_prompts,
    token_counts,
)
from lucida.evaluation.reconstruction import LayerReconstruction, Reconstruction, measure_reconstruction
from lucida.evaluation.replacement_model import ReplacementModel, local_logits, measure_replacement
from lucida.evaluation.report import BasisReport, EvaluationReport
from lucida.statistics import Interval

__all__ = [
    "Basis",
    "BasisReport",
    "Correlation",
    "DictionaryBasis",
    "Disagreement",
    "EvaluationPrompt",
    "EvaluationReport",
    "Faithfulness",
    "GraphMeasures",
    "GraphOptions",
    "Interval",
    "LayerReconstruction",
    "NeuronBasis",
    "PromptRules",
    "PromptScores",
    "PromptSet",
    "Reconstruction",
    "ReplacementModel",
    "SkipTest",
    "choose_prompts",
    "compare_stories",
    "evaluate",
    "given_prompts",
    "local_logits",
    "measure_faithfulness",
    "measure_graphs",
    "measure_reconstruction",
    "measure_replacement",
    "measure_skips",
    "neurons_of_l0",
    "read_prompts",
    "token_counts",
]
