"""The text a dictionary is trained and evaluated on: a corpus tokenised once, and rows of it by number."""

from lucida.training.data.corpus import open_corpus
from lucida.training.data.rows import TokenRows
from lucida.training.data.samples import sample_block, sample_tokens
from lucida.training.data.store import CorpusHeader, TokenStore

__all__ = ["CorpusHeader", "TokenRows", "TokenStore", "open_corpus", "sample_block", "sample_tokens"]
