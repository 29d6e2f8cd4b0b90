"""The cache of replies: what is remembered, by whom it is shared, and what it does not survive."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from harness.benchmarks.errors import DataError
from harness.benchmarks.judge import Cached, OpenAICompatible, Recorder
from harness.benchmarks.judge.base import Judge, Question, Reply
from harness.benchmarks.scoring.verdict import JudgeUnavailable
from tests.benchmarks.judge_server import Answer, Call, completion, serve

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy in between."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Counting(Judge):
    """Replies with the number of the call."""

    def __init__(self, fails: Callable[[int], bool] = lambda call: False, **identity: Any) -> None:
        self.name, self.identity = "counting", {"kind": "test", "model": "counting", **identity}
        self.calls, self._fails = 0, fails

    def reply(self, question: Question) -> Reply:
        self.calls += 1
        if self._fails(self.calls):
            raise JudgeUnavailable("away")
        return Reply(str(self.calls), "counting-1", 5, 1)


def test_whatever_can_change_a_reply_is_asked_anew(tmp_path: Path) -> None:
    file = tmp_path / "judge.sqlite"
    first, revised = Cached(Counting(), file), Cached(Counting(revision="2"), file)
    asks: list[Callable[[], str]] = [
        lambda: first("a"), lambda: first("b"), lambda: first("a", system=""), lambda: first("a", system="b"),
        lambda: first("a", temperature=0.5), lambda: first("a", max_tokens=9), lambda: revised("b"),
    ]  # fmt: skip
    expected = ["1", "2", "3", "4", "5", "6", "1"]
    assert [ask() for ask in asks] == expected
    assert [ask() for ask in asks] == expected
    assert first("a", temperature=0, max_tokens=2048) == "1"
    again = Cached(Counting(), file)
    assert again("b") == "2"
    assert again("half \ud83d") == "1"


def test_exchanges_tell_cached_replies_and_lead_to_prompts(tmp_path: Path) -> None:
    file = tmp_path / "judge.sqlite"
    judge = Cached(Counting(), file)
    ask = Recorder(judge)
    assert ask("a") == ask("a") == "1"
    fresh, cached = ask.exchanges
    assert fresh == {
        "question": Question("a").key(judge.identity), "reply": "1", "model": "counting-1", "prompt_tokens": 5,
        "completion_tokens": 1, "cached": False,
    }  # fmt: skip
    assert cached == fresh | {"cached": True}
    stored = sqlite3.connect(file).execute("SELECT key, judge, prompt, reply, model, time FROM replies").fetchall()
    assert [row[:5] for row in stored] == [
        (fresh["question"], '{"kind": "test", "model": "counting"}', "a", "1", "counting-1")
    ]
    assert abs(stored[0][5] - time.time()) < 60


def test_the_first_reply_stands(tmp_path: Path) -> None:
    """Another process may store its reply while this one is still asking."""
    file = tmp_path / "judge.sqlite"

    class Slow(Counting):
        def reply(self, question: Question) -> Reply:
            other = Cached(Counting(), file)
            assert other("a") == "1"
            return Reply("2", "counting-1")

    ask = Recorder(Cached(Slow(), file))
    assert [ask("a"), ask("a")] == ["1", "1"]


def test_failures_are_not_remembered(tmp_path: Path) -> None:
    judge = Cached(Counting(fails=lambda call: call < 3), tmp_path / "judge.sqlite")
    for _ in range(2):
        with pytest.raises(JudgeUnavailable):
            judge("a")
    assert [judge("a"), judge("a")] == ["3", "3"]


def test_equal_questions_of_threads_are_one_request(tmp_path: Path) -> None:
    """Different ones are asked side by side: the server answers none before it has all eight."""
    together = Barrier(8, timeout=20)

    def answer(calls: list[Call]) -> Answer:
        together.wait()
        return Answer(completion("yes"))

    with serve(answer) as (url, calls):
        judge = Cached(OpenAICompatible(model="judge", base_url=url, key=KEY, retries=0), tmp_path / "judge.sqlite")
        with ThreadPoolExecutor(64) as pool:
            replies = list(pool.map(lambda number: judge(f"prompt {number % 8}"), range(64)))
    assert replies == ["yes"] * 64
    assert sorted(call.body["messages"][0]["content"] for call in calls) == [f"prompt {i}" for i in range(8)]


def ask_all(url: str, file: Path, key: str, count: int) -> None:
    """What another process does: ask one question after the other."""
    ask = Recorder(Cached(OpenAICompatible(model="judge", base_url=url, key=key, retries=0), file))
    for number in range(count):
        ask(f"prompt {number}")
    print(*(exchange["reply"] for exchange in ask.exchanges), ask.exchanges[0]["cached"])


def started(target: Callable[..., None], *arguments: Any) -> Any:
    """A running process; forked, because importing everything again would take seconds."""
    process = get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def test_processes_share_replies_and_never_store_the_key(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "judge.sqlite"
    with serve(lambda calls: Answer(completion(f"you are {calls[-1].headers['authorization']}"))) as (url, calls):
        ask_all(url, file, KEY, 1)
        started(ask_all, url, file, "another-key-0123", 1).join(60)
        assert len(calls) == 1
        stored = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert capfd.readouterr().out == "you are Bearer *** False\nyou are Bearer *** True\n"
    assert b"you are Bearer" in stored
    assert KEY.encode() not in stored


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    """Two processes write until they are killed; every reply that had arrived is there, and the file is whole."""
    file = tmp_path / "judge.sqlite"
    with serve(lambda calls: Answer(completion("yes"))) as (url, calls):
        writers = [started(ask_all, url, file, KEY, 1_000_000) for _ in range(2)]
        while len(calls) < 200:
            time.sleep(0.01)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
        asked = len({call.body["messages"][0]["content"] for call in calls})
        ask = Recorder(Cached(OpenAICompatible(model="judge", base_url=url, key=KEY), file))
        for number in range(asked):
            ask(f"prompt {number}")
    assert {exchange["reply"] for exchange in ask.exchanges} == {"yes"}
    assert sum(not exchange["cached"] for exchange in ask.exchanges) <= 2  # the last ones may not have arrived
    assert sqlite3.connect(file).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def open_all(folder: Path, at: float) -> None:
    """What processes that start together do."""
    time.sleep(max(0, at - time.time()))
    for number in range(60):
        Cached(Counting(), folder / f"{number}.sqlite")("a")


def test_processes_may_create_it_at_once(tmp_path: Path) -> None:
    processes = [started(open_all, tmp_path, time.time() + 0.3) for _ in range(4)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4


def foreign(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE replies (key TEXT)")


def damaged(file: Path) -> None:
    judge = Cached(Counting(), file)
    for number in range(50):
        judge(f"{number}" * 1000)
    del judge
    assert [path.name for path in file.parent.iterdir()] == ["judge.sqlite"]  # closed, so all is in one file
    raw = file.read_bytes()
    file.write_bytes(raw[:4096] + bytes([7]) * (len(raw) - 4096))  # the first page only says what tables there are


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda file: file.write_text("id,score\n1,0.5\n" * 100), "file is not a database"),
        (foreign, "is not a cache of judges' replies: move it away"),
        (damaged, "malformed"),
        (Path.mkdir, "unable to open database file"),
    ],
)
def test_unusable_files_are_one_line(make: Callable[[Path], Any], reason: str, tmp_path: Path) -> None:
    file = tmp_path / "judge.sqlite"
    make(file)
    before = file.read_bytes() if file.is_file() else b""
    with pytest.raises(DataError, match=reason) as failure:
        Cached(Counting(), file)("a")
    assert str(file) in str(failure.value)
    assert "\n" not in str(failure.value)
    assert before == (file.read_bytes() if file.is_file() else b"")


def test_unusable_folders_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot use the cache .*/file/judge.sqlite: .*File exists"):
        Cached(Counting(), tmp_path / "file" / "judge.sqlite")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser writes to read-only folders")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="unable to open database file"):
        Cached(Counting(), tmp_path / "judge.sqlite")
