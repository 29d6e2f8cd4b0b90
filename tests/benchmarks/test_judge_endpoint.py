"""Judges behind a real HTTP server: what is sent, what is understood, and every way in which it can fail."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks.judge import Cached, OpenAICompatible, Recorder, endpoint
from harness.benchmarks.scoring.verdict import JudgeUnavailable
from tests.benchmarks.judge_server import Answer, completion, serve

KEY = "sk-secret-0123456789"
SOON = {"Retry-After": "0.01"}


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy in between."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def judge(url: str, **options: Any) -> OpenAICompatible:
    return OpenAICompatible(**{"model": "judge", "base_url": url, "key": KEY, "retries": 0, "timeout": 5.0, **options})


def test_what_is_sent_and_what_comes_back() -> None:
    with serve(lambda calls: Answer(completion("Judgement: 1\n"))) as (url, calls):
        ask = Recorder(judge(url))
        assert ask("Is 2 = 2?", system="Be brief.", temperature=0.5, max_tokens=7) == "Judgement: 1\n"
        judge(url, key=None)("No key")
    assert calls[0].path == "/v1/chat/completions"
    assert calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in calls[1].headers["authorization"]
    assert calls[0].body == {
        "model": "judge", "temperature": 0.5, "max_tokens": 7,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is 2 = 2?"}],
    }  # fmt: skip
    assert [m["role"] for m in calls[1].body["messages"]] == ["user"]
    (exchange,) = ask.exchanges
    assert len(exchange.pop("question")) == 64
    assert exchange == {
        "reply": "Judgement: 1\n", "model": "judge-2026-01-01", "prompt_tokens": 11, "completion_tokens": 2,
        "cached": False,
    }  # fmt: skip


def test_busy_servers_are_asked_again() -> None:
    busy = [Answer({}, 429, SOON), Answer({}, 503, SOON), Answer(completion("yes"))]
    with serve(lambda calls: busy[len(calls) - 1]) as (url, calls):
        assert judge(url, retries=2)("?") == "yes"
    assert len(calls) == 3


def test_pauses_are_those_that_the_server_asks_for() -> None:
    busy = [Answer({}, 429, {"Retry-After": "1"}), Answer(completion("yes"))]
    with serve(lambda calls: busy[len(calls) - 1]) as (url, _):
        start = time.monotonic()
        judge(url, retries=1)("?")
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer({"error": {"message": "overloaded"}}, 500), "HTTP 500: overloaded"),
        (Answer({}, 429), "HTTP 429"),
        (Answer({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401), "HTTP 401: Incorrect API key"),
        (Answer(f"<h1>{KEY} was refused</h1>", 403, {"Content-Type": "text/html"}), "HTTP 403"),
        (Answer({"error": f"no such model, {KEY}"}, 404), "HTTP 404"),
        (Answer([1], 400), "HTTP 400"),
        (Answer({"error": {"message": f"{'x' * 150} {KEY}"}}, 400), "HTTP 400"),
        (Answer("", 302, {"Location": "/sign-in"}), "not a chat completion: <html>sign in</html>"),
        (Answer("", 307), "HTTP 307"),
        (Answer("", 302, {"Location": "ftp://elsewhere/"}), "no connection"),
        (Answer('{"choices": [{"mess'), 'not a chat completion: {"choices": [{"mess'),
        (Answer(""), "not a chat completion"),
        (Answer("[" * 100_000), "not a chat completion: [[["),
        (Answer([]), "not a chat completion: []"),
        (Answer({"error": {"message": f"{KEY} has no credit"}}), "has no credit"),
        (Answer(completion("", choices=[])), "not a chat completion"),
        (Answer(completion("", choices=None)), "not a chat completion"),
        (Answer(completion("", choices=["1"])), "not a chat completion"),
        (Answer(completion("", choices=[{"text": "1"}])), "not a chat completion"),
        (Answer(completion(None)), "a reply without text (finish_reason stop)"),
        (Answer(completion(" \n")), "a reply without text"),
        (Answer(completion(["1"])), "a reply without text"),
    ],
)  # fmt: skip
def test_useless_answers_are_short_reasons(answer: Answer, reason: str) -> None:
    with serve(lambda calls: answer) as (url, _):
        ask = Recorder(judge(url))
        with pytest.raises(JudgeUnavailable) as failure:
            ask("?")
    text = str(failure.value)
    assert reason in text
    assert text.startswith(f"judge judge at {url}: ")
    assert KEY[:6] not in text  # nor a part of it, where long messages are cut
    assert "\n" not in text
    assert len(text) < 300
    assert failure.value.__cause__ is None
    assert ask.exchanges[0]["error"] == text


def test_tolerated_answers(tmp_path: Path) -> None:
    """Fields that endpoints need not send, half a character, and a key that the server repeats."""
    odd = [
        {**completion(f"{KEY} \ud83d"), "usage": None, "model": None},
        {**completion("1"), "usage": {"prompt_tokens": "x", "completion_tokens": 10**30}, "model": f"{KEY} \ud83d"},
    ]
    with serve(lambda calls: Answer(odd[len(calls) - 1])) as (url, calls):
        ask = Recorder(Cached(judge(url), tmp_path / "judge.sqlite"))
        assert ask("1") == "*** ?"
        assert ask("half \ud83d") == "1"
    assert calls[1].body["messages"][0]["content"] == "half ?"
    assert [e["model"] for e in ask.exchanges] == ["judge", "*** ?"]
    assert [(e["prompt_tokens"], e["completion_tokens"]) for e in ask.exchanges] == [(None, None)] * 2


def test_time_out() -> None:
    with (
        serve(lambda calls: Answer(completion("late"), wait=1.0)) as (url, _),
        pytest.raises(JudgeUnavailable, match=r"no answer within 0\.2 s"),
    ):
        judge(url, timeout=0.2)("?")


def closed_port() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def test_a_dead_endpoint_is_given_up() -> None:
    """Three questions wait for the repeats, thousands do not."""
    ask = judge(closed_port(), retries=1)
    reasons = set()
    start = time.monotonic()
    for _ in range(2000):
        with pytest.raises(JudgeUnavailable) as failure:
            ask("?")
        reasons.add(str(failure.value))
    assert 3 * 0.375 < time.monotonic() - start < 60  # three pauses of half a second, up to a quarter less
    (reason,) = reasons
    assert "no connection" in reason
    assert "refused" in reason


def test_a_given_up_endpoint_gets_another_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PAUSE", 0.3)
    good = False
    with serve(lambda calls: Answer(completion("1")) if good else Answer({}, 500)) as (url, calls):
        ask = judge(url)
        for _ in range(10):
            with pytest.raises(JudgeUnavailable, match="HTTP 500"):
                ask("?")
        assert len(calls) == 3
        good = True
        time.sleep(0.3)
        assert [ask("?"), ask("?")] == ["1", "1"]


def test_failures_of_single_questions_give_nothing_up() -> None:
    """A question too long says nothing of the next, and failures between good replies are not in a row."""
    pattern = [400, 413, 422, 400, 500, 500, 200]
    with serve(lambda calls: Answer(completion("1"), pattern[(len(calls) - 1) % 7])) as (url, calls):
        ask = judge(url)
        for number in range(28):
            if number % 7 == 6:
                assert ask("?") == "1"
            else:
                with pytest.raises(JudgeUnavailable):
                    ask("?")
    assert len(calls) == 28


def test_the_key_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with serve(lambda calls: Answer(completion("1"))) as (url, _):
        ask = judge(url)
        ask("?")
    assert caplog.records
    assert KEY not in f"{ask} {ask!r} {ask.identity} {ask.name} {caplog.text}"


def test_the_key_does_not_follow_redirects_elsewhere() -> None:
    with (
        serve(lambda calls: Answer(completion("1"))) as (elsewhere, there),
        serve(lambda calls: Answer("", 307, {"Location": f"{elsewhere}/chat/completions"})) as (url, _),
    ):
        judge(url)("?")
    assert [KEY in str(call.headers) for call in there] == [False]
