"""Mathematical equality by math-verify, in a process of its own with a time limit."""

from __future__ import annotations
