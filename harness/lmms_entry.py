"""What lmms-eval loads to learn that `--model vtpbench` exists; `harness.lmms_plugin` is imported only when it is asked
for, because a plug-in that fails here would keep lmms-eval from loading all others."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The entry of our model in lmms-eval's registry."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("vtpbench", chat_class_path="harness.lmms_plugin.VTPBench")
