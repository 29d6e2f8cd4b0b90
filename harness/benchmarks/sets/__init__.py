"""The data sets that a `Table` can read."""

from __future__ import annotations

from harness.benchmarks.sets import choice, maths, vqa
from harness.benchmarks.sets.base import Facts, Set, Version

SETS: dict[str, Set] = {
    "mathverse": maths.MATHVERSE,
    "wemath": maths.WEMATH,
    "dynamath": maths.DYNAMATH,
    "logicvista": maths.LOGICVISTA,
    "mmmu_pro_standard": choice.MMMU_PRO_STANDARD,
    "mmmu_pro_vision": choice.MMMU_PRO_VISION,
    "scienceqa": choice.SCIENCEQA,
    "gqa": vqa.GQA,
    "textvqa": vqa.TEXTVQA,
    "pope": vqa.POPE,
}

__all__ = ["SETS", "Facts", "Set", "Version"]
