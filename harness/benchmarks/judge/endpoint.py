"""Judges behind an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
import threading
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.benchmarks.judge.base import Judge, Question, Reply, whole
from harness.benchmarks.scoring.verdict import JudgeUnavailable

if TYPE_CHECKING:
    from openai import OpenAI

STRIKES = 3
PAUSE = 60.0  # seconds
OF_THE_PROMPT = (400, 413, 422)
"""Refusals that concern one question (too long, say), and tell nothing about the next."""


class OpenAICompatible(Judge):
    """Any endpoint under `base_url`; the `openai` package repeats what is worth repeating (429, 5xx, time-outs).

    An endpoint that failed three times in a row, repeats included, is given up for a minute: until then every question
    fails at once, so that thousands of samples do not wait for it one by one. The address is not part of the identity,
    because servers move between hosts and ports; `revision` tells apart models that have one name.

    Args:
        key: sent to the endpoint and kept out of everything else; None for servers that need none.
        timeout: seconds without a byte from the endpoint.
        retries: repeats of one question.
    """

    def __init__(
        self, *, model: str, base_url: str, key: str | None, revision: str | None = None, timeout: float = 120.0,
        retries: int = 5,
    ) -> None:  # fmt: skip
        self.name = model
        self.identity = {"kind": "openai_compatible", "model": model, "revision": revision}
        self._url, self._key, self._timeout, self._retries = base_url, key, timeout, retries
        self._lock, self._strikes, self._down_until, self._reason = threading.Lock(), 0, 0.0, ""

    def reply(self, question: Question) -> Reply:
        """See Judge."""
        from openai import APIStatusError, APITimeoutError

        if time.monotonic() < self._down_until:
            raise JudgeUnavailable(self._reason)
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=self.name, messages=question.messages(),  # type: ignore[arg-type]
                temperature=question.temperature, max_tokens=question.max_tokens,
            )  # fmt: skip
        except APITimeoutError:
            raise self._failure(f"no answer within {self._timeout:g} s", strike=True) from None
        except APIStatusError as error:
            strike = error.status_code not in OF_THE_PROMPT
            raise self._failure(f"HTTP {error.status_code}{self._message(error.body)}", strike) from None
        except Exception as error:  # the package lets some errors of the libraries below it through
            raise self._failure(f"no connection ({self._short(str(error.__cause__ or error))})", strike=True) from None
        with self._lock:
            self._strikes = 0
        return self._read(response.text)

    @cached_property
    def _client(self) -> OpenAI:
        from openai import OpenAI, Timeout

        timeout = Timeout(self._timeout, connect=min(self._timeout, 10.0))
        return OpenAI(base_url=self._url, api_key=self._key or "none", max_retries=self._retries, timeout=timeout)

    def _read(self, text: str) -> Reply:
        """The reply in a chat completion, whose every part may be missing or of another type."""
        try:
            body = json.loads(text)
            choice = body["choices"][0]
            content = choice["message"]["content"]
            ended = choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise self._failure(f"not a chat completion: {self._short(text)}") from None
        if not isinstance(content, str) or not content.strip():
            raise self._failure(f"a reply without text (finish_reason {self._short(str(ended))})")
        usage, model = body.get("usage"), body.get("model")
        return Reply(
            self._clean(content), self._clean(model) if isinstance(model, str) else self.name,
            _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"),
        )  # fmt: skip

    def _failure(self, reason: str, strike: bool = False) -> JudgeUnavailable:
        reason = f"judge {self.name} at {self._url}: {reason}"
        with self._lock:
            self._strikes += strike
            if strike and self._strikes >= STRIKES:
                self._down_until, self._reason = time.monotonic() + PAUSE, reason
        return JudgeUnavailable(reason)

    def _message(self, body: Any) -> str:
        """What an error's body says, if it has one of the usual forms."""
        message = body.get("message") if isinstance(body, dict) else body
        return f": {self._short(message)}" if isinstance(message, str) and message else ""

    def _short(self, text: str) -> str:
        return " ".join(self._clean(text).split())[:160]

    def _clean(self, text: str) -> str:
        """What can be stored, and not the key, should the endpoint echo it."""
        return whole(text.replace(self._key, "***") if self._key else text)


def _count(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value < 2**53 else None
