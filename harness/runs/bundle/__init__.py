"""Bundles: finished cells in one file, which `vtpbench verify` checks on another machine."""
