"""From configuration to judge: what is needed, what is refused, and what judging costs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.benchmarks.errors import DataError
from harness.benchmarks.judge import cost, make_judge
from harness.runs.config import JudgeConfig
from harness.runs.errors import InputError
from harness.runs.typed import build
from tests.benchmarks.judge_server import Answer, completion, serve

CONF = Path(__file__).parents[2] / "conf" / "judge"
KEY = "sk-secret-0123456789"


def shipped(name: str, **changes: Any) -> JudgeConfig:
    """A judge of conf/judge."""
    text = (CONF / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    return build(JudgeConfig, {"name": name, **yaml.safe_load(text), **changes}, "judge")


def test_no_judge(tmp_path: Path) -> None:
    assert make_judge(shipped("none"), tmp_path / "judge.sqlite") is None
    assert not list(tmp_path.iterdir())


def test_endpoint_from_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    with serve(lambda calls: Answer(completion("1"))) as (url, calls):
        config = shipped("openai_compatible", model="gpt", base_url=url, key_env="JUDGE_KEY", revision="r")
        judge = make_judge(config, tmp_path / "judge.sqlite")
        assert judge is not None
        assert judge("?") == "1"
        local = make_judge(shipped("openai_compatible", model="other", base_url=url, key_env=None), tmp_path / "j")
        assert local is not None
        assert local("?") == "1"
    assert [call.headers["authorization"] == f"Bearer {KEY}" for call in calls] == [True, False]
    assert [call.body["model"] for call in calls] == ["gpt", "other"]
    assert judge.identity == {"kind": "openai_compatible", "model": "gpt", "revision": "r"}
    assert judge.name == "gpt"


@pytest.mark.parametrize(
    ("name", "changes", "value", "message"),
    [
        ("openai_compatible", {}, KEY, "judge.model= is missing"),
        ("openai_compatible", {"model": "gpt", "base_url": None}, KEY, "judge.base_url= is missing"),
        ("openai_compatible", {"model": "gpt"}, None, "OPENAI_API_KEY is not set, which judge.key_env= names"),
        ("openai_compatible", {"model": "gpt"}, " ", "OPENAI_API_KEY is not set, which judge.key_env= names"),
        ("openai_compatible", {"model": "gpt"}, f"{KEY} {KEY}", "OPENAI_API_KEY, which judge.key_env= names, is no"),
        ("openai_compatible", {"model": "gpt"}, f"{KEY}é", "OPENAI_API_KEY, which judge.key_env= names, is no key"),
        ("hf_local", {}, None, "judge.path= is missing"),
    ],
)  # fmt: skip
def test_what_is_missing(
    name: str, changes: dict[str, Any], value: str | None, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(ValueError, match=re.escape(message)) as failure:
        make_judge(shipped(name, **changes), tmp_path / "judge.sqlite")
    assert not isinstance(failure.value, DataError)
    assert KEY not in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("key_env", KEY), ("key_env", "abcdef0123456789"), ("key_env", ""), ("base_url", f"http://me:{KEY}@host/v1"),
        ("base_url", f"http://host/v1?key={KEY}"), ("base_url", "host/v1"), ("base_url", "ftp://host/v1"),
        ("base_url", f"http://{KEY}@/v1"), ("base_url", f"http://[{KEY}/v1"), ("base_url", f"http://host:{KEY}@/v1"),
        ("concurrency", 0), ("retries", -1), ("timeout", 0), ("kind", "human"), ("dtype", "int8"), ("api_key", KEY),
    ],
)  # fmt: skip
def test_senseless_values_are_one_line_without_the_key(key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"judge.{key}") as failure:
        shipped("openai_compatible", **{key: value})
    assert KEY not in str(failure.value)
    assert "\n" not in str(failure.value)


def test_cost() -> None:
    config = shipped("openai_compatible", prompt_price=0.15, completion_price=0.6, prompt_tokens=1000,
                     completion_tokens=50)  # fmt: skip
    calls, tokens, dollars = cost(config, 2000)
    assert (calls, tokens) == (2000, 2_100_000)
    assert dollars == pytest.approx(2.0 * 0.15 + 0.1 * 0.6)  # millions of tokens times dollars per million
    assert cost(config, 0) == (0, 0, 0.0)
    assert cost(shipped("openai_compatible", prompt_price=0.15), 3) == (3, 3000, None)
    assert cost(shipped("hf_local"), 1).dollars is None
