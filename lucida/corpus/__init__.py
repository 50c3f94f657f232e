"""The text a dictionary is trained and evaluated on: a corpus tokenised once, and rows of it by number."""

from lucida.corpus.opening import open_corpus
from lucida.corpus.rows import TokenRows
from lucida.corpus.samples import sample_block, sample_tokens
from lucida.corpus.store import CorpusHeader, TokenStore

__all__ = ["CorpusHeader", "TokenRows", "TokenStore", "open_corpus", "sample_block", "sample_tokens"]
