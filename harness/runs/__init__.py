"""Grids of cells: configuration, identity, append-only sample logs, resume, executors."""
