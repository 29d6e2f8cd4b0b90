"""Judges: models that score what no rule can. Replies are cached; a judge that cannot be reached leaves no verdict."""
