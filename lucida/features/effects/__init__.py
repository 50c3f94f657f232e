"""What a feature does and what drives it, from the weights and from what is active together."""
