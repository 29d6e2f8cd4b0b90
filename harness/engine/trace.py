"""What goes into the engine and what comes out: requests, decoding parameters, traces."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from pruners.layout import Box

Picture = Image.Image | Path | bytes
"""A picture: opened, or a file or its bytes, opened only when its sample is run (a damaged one fails that sample)."""

Finish = Literal["stop", "length", "length_loop", "error"]

Recorded = Literal["kept", "attention"]
"""What a run can write beside its traces: kept sets for `replay`, or what its replies looked at."""


@dataclass(frozen=True)
class Request:
    """One prompt: a user turn of text and pictures in order, after optional system texts (a message each).

    `forced`: the reply's tokens, whatever the model would choose (teacher forcing).
    """

    id: str
    content: tuple[str | Picture, ...]
    system: tuple[str, ...] = ()
    needed: tuple[Box, ...] = ()
    repeat: int = 0
    forced: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are chosen. temperature 0 is greedy; top_k 0 and top_p 1 switch their filters off.

    `ignore_eos` writes exactly `max_new_tokens` tokens (used for timing and for runs without values).
    """

    max_new_tokens: int = 4096
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0 or self.repetition_penalty <= 0:
            raise ValueError("needs temperature >= 0, 0 < top_p <= 1, top_k >= 0 and repetition_penalty > 0")


@dataclass
class Trace:
    """Everything measured on one sample.

    Attributes:
        token_ids, text: what was generated (stop token and stop string left out of the text).
        finish: "stop", "length", "length_loop" (cut while repeating itself), or "error".
        thinking_tokens, answer_tokens: tokens up to and after `</think>`; their sum is the trace length.
        text_tokens, visual_tokens: the prompt before pruning.
        visual_per_layer: visual tokens that entered each language-model layer in prefill.
        visible_per_step: [visual keys read (mean over layers), number of consecutive steps] pairs.
        triggers: decode steps at which a step method re-selected.
        ret_prefill: visible visual tokens, mean over layers, over N; None without pictures, like the next two.
        ret_decode: visual keys read per step, mean over layers and steps, over N.
        kv: resident visual KV entries at the end over those of the unpruned model; tokens that a method made count
            (VisionZip's class token, DSTP's merged one), so that it can exceed 1.
        flops: matrix-product FLOPs by part: vision, prefill, decode, overhead.
        overhead: what the overhead is made of: selection (signals and rules in prefill), monitor (a step method's look
            at its layer), recall (tokens brought back).
        kv_bytes: visible (mean over steps), resident and allocated bytes of the KV cache at the end.
        prefill_seconds, decode_seconds: of the language model; vision features, which methods share, are not timed.
            On a CPU they overlap where prefill runs in the background.
        evidence_runs: what the reply could read of the regions that its answer needs, where the benchmark names them
            (see `harness.engine.evidence`).
        kept: kept sets, one entry per moment and group, for `replay`; attention: see `harness.engine.watch`; both only
            where they are recorded.
        error: class and message of what failed.
    """

    id: str
    repeat: int = 0
    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: Finish = "stop"
    thinking_tokens: int = 0
    answer_tokens: int = 0
    text_tokens: int = 0
    visual_tokens: int = 0
    visual_per_layer: list[int] = field(default_factory=list)
    visible_per_step: list[tuple[float, int]] = field(default_factory=list)
    triggers: list[int] = field(default_factory=list)
    ret_prefill: float | None = None
    ret_decode: float | None = None
    kv: float | None = None
    flops: dict[str, int] = field(default_factory=dict)
    overhead: dict[str, int] = field(default_factory=dict)
    kv_bytes: dict[str, int] = field(default_factory=dict)
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    peak_memory: int | None = None
    evidence_runs: list[tuple[int, list[float]]] = field(default_factory=list)
    kept: list[dict[str, Any]] = field(default_factory=list)
    attention: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def new_tokens(self) -> int:
        """Trace length: tokens generated."""
        return len(self.token_ids)

    def record(self) -> dict[str, Any]:
        """As plain data for a log."""
        return dict(vars(self))
