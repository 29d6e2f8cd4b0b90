"""Tests of data neither use nor fill the caches of whoever runs them, and reach for no network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def own_caches(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty caches for this test."""
    import datasets
    from huggingface_hub import constants

    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("VTPBENCH_CACHE", str(folder / "vtpbench"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection is a failure of the test."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"reached for the network: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
