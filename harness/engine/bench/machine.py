"""The machine that figures come from, and whether something fits into its memory."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from harness.accounting.kv import slot_bytes
from harness.accounting.roofline import GIB
from harness.engine.ahead import TOKENS
from harness.engine.bench.measure import Setting
from harness.engine.bench.prompt import Unmeasurable, make_prompt
from harness.models.base import Model


def pick(device: str) -> str:
    """ "auto" is a GPU where there is one. Raises Unmeasurable for what is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "meta") and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise Unmeasurable(f"device must be auto, cpu, meta (costs alone), or cuda where there is a GPU, got {device}")
    return device


def name_of(device: str) -> str:
    """What the device is called."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return "no device: costs alone" if device == "meta" else f"CPU, {torch.get_num_threads()} threads"


def describe(device: str) -> str:
    """The device and the versions that decide about its speed, in a line."""
    parts = [name_of(device), platform.machine(), f"{os.cpu_count()} cores", f"torch {torch.__version__}"]
    if device.startswith("cuda"):
        total = torch.cuda.mem_get_info(device)[1]
        parts[1:1] = [f"{total / GIB:.1f} GiB", f"CUDA {torch.version.cuda}"]
    return ", ".join([*parts, f"transformers {version('transformers')}", f"Python {platform.python_version()}"])


def require(model: Model, setting: Setting, device: str) -> None:
    """Raise Unmeasurable if a model (that may be without values) has no such prompt, or if its weights and caches alone
    need more memory than is free."""
    make_prompt(model, setting.visual_tokens, setting.text_tokens)
    if device == "meta":
        return
    d, weights = model.dims, sum(weight.nbytes for weight in model.net.parameters())
    prompt = setting.visual_tokens + setting.text_tokens
    rows = setting.slots if device.startswith("cuda") else -(-setting.slots // 8) * 8  # as the cache has them
    waiting = slot_bytes(d, min(setting.slots * prompt, max(TOKENS, prompt)), 0)  # prefilled, but in no slot yet
    need, free = weights + rows * slot_bytes(d, prompt, setting.new_tokens) + waiting, free_bytes(device)
    if need > free:
        raise Unmeasurable(
            f"{weights / GIB:.1f} GiB of weights and {(need - weights) / GIB:.1f} GiB of cache for {rows} rows do not "
            f"fit into the {free / GIB:.1f} GiB that are free on {name_of(device)}; device=meta tells costs alone"
        )


def free_bytes(device: str) -> int:
    """Memory that is free."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    told = Path("/proc/meminfo")
    if told.exists():  # what files are cached in is given back
        return int(told.read_text().partition("MemAvailable:")[2].split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
