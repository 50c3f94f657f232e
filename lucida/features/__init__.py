"""What a feature means: one pass over a corpus says when each fires and what it does; then find, read and name it."""
