"""Parts of `scripts/train_tiny.py`."""
