"""Labels by a language model behind any OpenAI-compatible endpoint, and how far to trust them."""

from lucida.features.llm.cost import Estimate, estimate
from lucida.features.llm.endpoint import Endpoint, Reply
from lucida.features.llm.label_features import LabelRun, llm_labels

__all__ = ["Endpoint", "Estimate", "LabelRun", "Reply", "estimate", "llm_labels"]
