"""The way to transformers: lets it work beside a torchvision that does not fit torch.

transformers asks only whether torchvision is installed and then fails on its import, as happens with a CPU build of
torch beside the registry's torchvision. Hidden, it is taken as absent; the PIL image processors are used in any case.
"""

import sys

if "torchvision" not in sys.modules:
    try:
        import torchvision  # noqa: F401
    except Exception:
        for _name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[_name]
        sys.modules["torchvision"] = None  # type: ignore[assignment]

from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.utils import logging

__all__ = ["AttentionInterface", "AttentionMaskInterface", "logging", "sdpa_mask"]
