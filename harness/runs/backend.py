"""The seam between runs and what executes them, so that a grid can be tested without a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.engine.trace import Decoding, Recorded, Request, Trace
from harness.runs.config import EngineConfig, ModelConfig
from harness.runs.errors import InputError
from harness.runs.log import digest
from pruners.base import Pruner
from pruners.views import ModelInfo


class Engine(Protocol):
    """What runs need of `harness.engine.Engine`."""

    def run(
        self, requests: Iterable[Request], pruner: Pruner, decoding: Decoding, *, record: Recorded | None = None
    ) -> Iterator[Trace]:
        """One trace per request, in any order, as it finishes."""


class Backend(Protocol):
    """Models by configuration. Instances are sent to worker processes, so they must be picklable."""

    def info(self, model: ModelConfig) -> ModelInfo:
        """What methods check before anything is loaded."""

    def files(self, model: ModelConfig) -> dict[str, str]:
        """What tells the model's files from others: its weights, and its processor (tokenizer, template, pictures)."""

    def versions(self) -> dict[str, str]:
        """Versions of the code that decides about results, methods aside."""

    def engine(self, model: ModelConfig, config: EngineConfig, device: str) -> Engine:
        """A loaded model, ready to run."""


@dataclass(frozen=True)
class TorchBackend:
    """The real one."""

    def info(self, model: ModelConfig) -> ModelInfo:
        """From the model's config.json alone."""
        from harness.models import ModelUnavailable, model_info

        try:
            return model_info(model.path, family=model.family, revision=model.revision, **model.options)
        except ModelUnavailable as error:
            raise InputError(str(error)) from None

    def files(self, model: ModelConfig) -> dict[str, str]:
        """A hub commit, or digests of local files."""
        from harness.models import ModelUnavailable, processor_hash, weights_id

        where = (model.path, model.revision)
        try:
            return {"files": weights_id(*where), "processor": processor_hash(*where)}
        except ModelUnavailable as error:
            raise InputError(str(error)) from None

    def versions(self) -> dict[str, str]:
        """Engine, torch and transformers."""
        import torch
        import transformers

        from harness.engine import ENGINE_VERSION

        return {"engine": ENGINE_VERSION, "torch": str(torch.__version__), "transformers": transformers.__version__}

    def engine(self, model: ModelConfig, config: EngineConfig, device: str) -> Engine:
        """Loads the weights."""
        from harness.engine import Engine as TorchEngine
        from harness.engine.deterministic import NotDeterministic
        from harness.models import ModelUnavailable, hide_progress, load_model

        hide_progress()
        try:
            loaded = load_model(
                model.path, family=model.family, revision=model.revision, dtype=model.dtype, device=device,
                weights=model.weights, **model.options,
            )  # fmt: skip
        except ModelUnavailable as error:
            raise InputError(str(error)) from None
        given = config.feature_cache_folder
        folder = Path(given).expanduser() / self._shelf(model, config, device) if given else None
        try:
            return TorchEngine(
                loaded,
                slots=config.slots,
                compiled=config.compiled,
                fixed_batch=config.fixed_batch,
                deterministic=config.deterministic,
                ahead=config.ahead,
                feature_cache_mb=config.feature_cache_mb,
                feature_cache_folder=folder,
                feature_cache_disk_mb=config.feature_cache_disk_mb,
            )
        except (NotDeterministic, ValueError) as error:
            raise InputError(str(error)) from None

    def _shelf(self, model: ModelConfig, config: EngineConfig, device: str) -> str:
        """Names what vision features depend on, pictures apart."""
        wanted = ("path", "revision", "family", "dtype", "weights", *model.options)
        on = {name: getattr(model, name) for name in wanted} | self.files(model) | self.versions()
        on |= {"fixed_batch": True} if config.fixed_batch else {}  # pictures that went alone are rounded as such
        on |= {"deterministic": True} if config.deterministic else {}
        return digest(on | {"device": device.partition(":")[0]})[:16]
