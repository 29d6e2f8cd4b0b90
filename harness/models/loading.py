"""Loading models, by a name of ours, a local folder or a hub id."""

from __future__ import annotations

import hashlib
import importlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch

from harness.compat import logging
from harness.models.attention import NAME
from harness.models.base import Model, ModelUnavailable
from harness.models.families import FAMILIES, Family
from pruners.views import ModelInfo

BUILTIN = "builtin:"
TINY = Path(__file__).resolve().parents[1] / "tiny"


PROCESSOR_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "preprocessor_config.json", "processor_config.json",
)  # fmt: skip


def source(path: str) -> str:
    """A folder or hub id that transformers understands."""
    if not path.startswith(BUILTIN):
        return path
    folder = TINY / path.removeprefix(BUILTIN)
    if not folder.is_dir():
        known = ", ".join(sorted(p.name for p in TINY.iterdir() if (p / "config.json").exists()))
        raise ModelUnavailable(f"no built-in model {folder.name}; there are: {known}")
    return str(folder)


def _offline() -> bool:
    """Whether the model hub is out of reach, or shall not be asked."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE or _unreachable(constants.ENDPOINT)


@cache
def _unreachable(endpoint: str) -> bool:
    """Asked once, because the hub's client retries every file for a minute."""
    if getproxies():
        return False
    address = urlsplit(endpoint)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=5).close()
    except OSError:
        return True
    return False


def fetch(
    path: str, revision: str | None, what: str, load: Callable[..., Any], key: str = "path", **options: Any
) -> Any:
    """Run a loader of transformers, and say what was tried if it cannot reach its files; model.KEY= gives the path."""
    place = source(path)
    local = Path(place).exists()
    try:
        return load(place, revision=revision, local_files_only=local or _offline(), **options)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise ModelUnavailable(
                f"{path} needs code of its own (trust_remote_code), and no option here runs it"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hub = f"model hub ({'no connection, so its local cache' if _offline() else 'reached'})"
        where = f"folder {place}" if local else f"{hub}, {place} at revision {revision or 'main'}"
        raise ModelUnavailable(
            f"cannot load the {what} of {path} (tried: {where}): {reason} "
            f"If there is no network, download the model elsewhere and give its folder: model.{key}=/path/to/folder"
        ) from error


def config_of(path: str, revision: str | None, family: str) -> Any:
    """The configuration of a model of a family. Raises ModelUnavailable."""
    from transformers import AutoConfig

    config = fetch(path, revision, "config", AutoConfig.from_pretrained, trust_remote_code=False)
    if config.model_type != family:
        raise ModelUnavailable(f"{path} holds a {config.model_type} model, where model.family={family} is wanted")
    return config


def _family(name: str, options: Mapping[str, Any]) -> tuple[Family, dict[str, Any]]:
    """A family and the options that are set; raises ModelUnavailable for what is unknown."""
    if name not in FAMILIES:
        raise ModelUnavailable(f"unknown model family {name}; known: {', '.join(FAMILIES)}")
    known = FAMILIES[name].options
    for option, value in options.items():
        if value is not None and option not in known:
            raise ModelUnavailable(f"{name} models have no option {option}=; theirs: {', '.join(known) or 'none'}")
    return FAMILIES[name], {option: value for option, value in options.items() if value is not None}


def model_info(path: str, *, family: str, revision: str | None = None, **options: Any) -> ModelInfo:
    """What methods may know of a model, from its config alone (no weights are loaded)."""
    found, chosen = _family(family, options)
    info: ModelInfo = importlib.import_module(found.module).info(config_of(path, revision, family), path)
    return replace(info, has_text_tower="clip_text" in chosen)


def processor_hash(path: str, revision: str | None = None) -> str:
    """Hash of tokenizer, chat template and image processor files."""
    place, digest = source(path), hashlib.sha256()
    for name in PROCESSOR_FILES:
        file = Path(place) / name
        if not Path(place).exists():
            from transformers.utils.hub import cached_file

            found = fetch(
                path, revision, "processor", cached_file, filename=name, _raise_exceptions_for_missing_entries=False
            )
            if found is None:
                continue
            file = Path(found)
        if file.exists():
            digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def weights_id(path: str, revision: str | None = None) -> str:
    """What tells one set of weights from another: a hub commit, or a digest of the files of a local folder.

    Of a local file the size and 64 blocks of 64 KiB are read, so that a folder of many gigabytes costs no minutes.
    """
    place = Path(source(path))
    if not place.exists():
        from transformers.utils.hub import cached_file

        found = fetch(path, revision, "config", cached_file, filename="config.json")
        return Path(found).parent.name  # .../snapshots/<commit>/config.json
    digest = hashlib.sha256()
    for file in sorted([place / "config.json", *place.glob("*.safetensors")]):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            for block in range(64):
                opened.seek(max(0, size - 65536) * block // 63)
                digest.update(opened.read(65536))
    return digest.hexdigest()[:16]


def hide_progress() -> None:
    """Load weights without transformers' bars from now on."""
    logging.disable_progress_bar()


def load_model(
    path: str, *, family: str, revision: str | None = None, dtype: str = "float32", device: str = "cpu",
    weights: str = "trained", seed: int = 0, **options: Any,
) -> Model:  # fmt: skip
    """A model behind its adapter.

    Args:
        path: "builtin:NAME" for a tiny model of this package, a local folder, or a hub id.
        weights: "trained", or "random" to build the architecture from its config alone.
        options: those of the family's adapter (pixel limits, tiles, prompts); None is its default.

    Raises:
        ModelUnavailable: files cannot be reached or do not fit; the message says what was tried.
    """
    found, chosen = _family(family, options)
    config = config_of(path, revision, family)
    import transformers

    kind = getattr(transformers, found.net)
    if weights == "random":
        net = random_net(kind, config, dtype, device, seed)
    else:
        # no weights but safetensors: other formats are pickles, which can hold code
        net = fetch(
            path, revision, "weights", kind.from_pretrained, dtype=getattr(torch, dtype), use_safetensors=True
        ).to(device)
    tokenizer = fetch(path, revision, "tokenizer", transformers.AutoTokenizer.from_pretrained, trust_remote_code=False)
    images = fetch(path, revision, "image processor", resolve_name(f"transformers.{found.images}").from_pretrained)
    return adapted(found, net, tokenizer, images, path, chosen)


def random_net(kind: Any, config: Any, dtype: str, device: str, seed: int) -> Any:
    """A stock model with random weights."""
    torch.manual_seed(seed)
    with torch.device(device):
        return kind._from_config(config, dtype=getattr(torch, dtype))


def adapted(
    family: Family, net: Any, tokenizer: Any, images: Any, name: str, options: Mapping[str, Any]
) -> Model:  # fmt: skip
    """A stock model behind its adapter, its language model under the engine's attention."""
    net.get_decoder().set_attn_implementation(NAME)
    getattr(net.model, family.tower).set_attn_implementation("sdpa")
    model: Model = getattr(importlib.import_module(family.module), family.adapter)(
        net, tokenizer, images, name, **options
    )
    return model
