"""Slow references that share no code with the package they check."""
