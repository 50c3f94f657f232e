"""First names for features, without any language model."""
