"""What a judge is: questions in, raw replies out, and a record of both."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harness.benchmarks.scoring.verdict import JudgeUnavailable


@dataclass(frozen=True)
class Question:
    """One question to a judge, with everything that its reply depends on but the judge itself."""

    prompt: str
    system: str | None = None
    temperature: float = 0.0
    max_tokens: int = 2048

    def messages(self) -> list[dict[str, str]]:
        """As a chat."""
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        return [*system, {"role": "user", "content": self.prompt}]

    def key(self, identity: Mapping[str, Any]) -> str:
        """SHA-256 of the question and of what tells its judge from others."""
        return hashlib.sha256(json.dumps([identity, asdict(self)], sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Reply:
    """What a judge said.

    Attributes:
        model: as the judge itself calls it, so that "gpt-4o" is known by its date.
        prompt_tokens, completion_tokens: None if the judge does not say.
        cached: no judge was asked.
    """

    text: str
    model: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached: bool = False


class Judge(ABC):
    """A model that judges; has the form of `harness.benchmarks.scoring.verdict.Ask`.

    Attributes:
        name: for people.
        identity: plain JSON that tells its judgements from those of others; `model` is always there.
    """

    name: str
    identity: dict[str, Any]

    @abstractmethod
    def reply(self, question: Question) -> Reply:
        """The reply to one question; called from many threads. Raises JudgeUnavailable."""

    def __call__(
        self, prompt: str, *, system: str | None = None, temperature: float = 0.0, max_tokens: int = 2048
    ) -> str:
        """The raw reply. Raises JudgeUnavailable."""
        system = None if system is None else whole(system)
        return self.reply(Question(whole(prompt), system, float(temperature), max_tokens)).text


class Recorder(Judge):
    """Remembers what one sample asked: `exchanges` are plain JSON for its score line."""

    def __init__(self, judge: Judge) -> None:
        self.name, self.identity, self._judge = judge.name, judge.identity, judge
        self.exchanges: list[dict[str, Any]] = []

    def reply(self, question: Question) -> Reply:
        """See Judge; `question` in an exchange is the key under which the cache holds prompt and reply."""
        exchange: dict[str, Any] = {"question": question.key(self.identity)}
        try:
            reply = self._judge.reply(question)
        except JudgeUnavailable as error:
            self.exchanges.append(exchange | {"error": str(error)})
            raise
        said = asdict(reply)
        self.exchanges.append(exchange | {"reply": said.pop("text"), **said})
        return reply


def whole(text: str) -> str:
    """Text that can be sent and stored: half characters, which JSON can hold, become question marks."""
    return text.encode("utf-8", "replace").decode()
