"""Find a feature, read its card, tell texts apart by features, and watch them while the model reads."""
