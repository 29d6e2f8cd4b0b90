"""One folder of vision features serves all models: each has its own inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.engine import Decoding, Engine
from harness.runs.backend import TorchBackend
from harness.runs.config import EngineConfig, ModelConfig
from pruners import NoPruning
from tests.conftest import prompts

MODEL = ModelConfig(name="tiny", path="builtin:qwen3_vl", family="qwen3_vl")


def test_each_model_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Told apart by weights, type, options and device; found again by the next process."""
    others = [
        replace(MODEL, dtype="bfloat16"), replace(MODEL, max_pixels=4096), replace(MODEL, weights="random"),
        replace(MODEL, path="builtin:internvl", family="internvl"),
    ]  # fmt: skip
    backend, names = TorchBackend(), set()
    for model in (MODEL, *others):
        engine = backend.engine(model, EngineConfig(feature_cache_folder=str(tmp_path)), "cpu")
        assert isinstance(engine, Engine) and engine.features.files is not None
        assert engine.features.files.folder.parent == tmp_path and engine.features.files.limit == 32768 << 20
        names.add(engine.features.files.folder.name)
    assert len(names) == 1 + len(others)
    on = {device: backend._shelf(MODEL, EngineConfig(), device) for device in ("cuda:0", "cuda:1", "cpu")}
    assert on["cuda:0"] == on["cuda:1"] != on["cpu"]
    again = backend.engine(replace(MODEL, name="other"), EngineConfig(feature_cache_folder=str(tmp_path)), "cpu")
    assert isinstance(again, Engine) and again.features.files and again.features.files.folder.name in names
    assert not [t.error for t in again.run(prompts(4), NoPruning(), Decoding(max_new_tokens=2)) if t.error]
    assert len(list(again.features.files.folder.iterdir())) == 6  # pictures in these prompts


def test_without_a_folder_nothing_is_written() -> None:
    engine = TorchBackend().engine(MODEL, EngineConfig(), "cpu")
    assert isinstance(engine, Engine) and engine.features.files is None
