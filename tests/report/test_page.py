"""The report's file: what it holds, what it says of what is not there, and that nothing in it reaches out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.cli import main
from harness.report.page import build
from harness.report.page.html import policy, render
from harness.report.page.replies import ranked
from harness.report.page.traces import changes
from tests.report.hostile import ATTACK, poison


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, and the texts of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, text: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and text.strip():
            self.scripts.append(text)

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


@pytest.fixture(scope="module")
def page(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    to = tmp_path_factory.mktemp("page") / "deep" / "report.html"
    assert main(["report", f"paths.results={stored}", f"to={to}"]) == 0
    assert to.stat().st_size < 10e6
    return Page(to.read_text())


def test_nothing_reaches_out_and_only_own_scripts_may_run(page: Page) -> None:
    for _, attributes in page.tags:
        assert not any(key in ("src", "href", "action") and not re.match("#|data:", value or "")
                       for key, value in attributes.items())  # fmt: skip
        assert not any(key.startswith("on") or key == "style" for key in attributes)
    (given,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert given == policy(page.scripts[1:]) and given.startswith("default-src 'none'; script-src 'sha256-")


def test_the_leaderboard_is_that_of_the_table(page: Page, stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", f"paths.results={stored}", "to=md"]) == 0
    printed = capsys.readouterr().out
    for section in page.data["board"]:
        assert f"## {section['title']}" in printed
        for row in section["rows"]:
            at = {column["head"]: text for column, text in zip(section["columns"], row["texts"], strict=True)}
            assert at["method"] in printed and at["accuracy % [95 %]"] in printed
            assert at["verdict"] in ("-", "worse", "better", "equivalent", "inconclusive")
    assert [len(section["rows"]) for section in page.data["board"]] == [6, 6]


def test_samples_on_record_come_first_and_tell_what_was_visible(page: Page) -> None:
    (walks,) = [part for part in page.data["gallery"] if part["benchmark"] == "glyph_walk"]
    recorded = [any(reply.get("trace") for reply in sample["replies"]) for sample in walks["samples"]]
    assert recorded == [True] * 6 + [False] * 6 and walks["leftOut"] == 0
    names = [method["method"] for method in walks["methods"]]
    for sample in walks["samples"][:6]:
        traces = {name: reply["trace"] for name, reply in zip(names, sample["replies"], strict=True)}
        assert [len(traces[name]["changes"][0][1]) for name in ("none", "fastv", "random")] == [64, 21, 21]
        assert len(traces["fastv"]["changes"]) == 1 and len(traces["visionpulse_10"]["changes"]) > 2
        for reply in sample["replies"]:
            assert reply["trace"]["exact"] and reply["trace"]["ends"][-1] == len(reply["text"])
            words = np.diff([0, *reply["trace"]["ends"]])
            assert (words[:-1] > 0).all()  # the tiny models write a word a token, and then the end
        assert sample["question"].startswith("start at") and len(sample["pictures"]) == 1
    full, fastv = names.index("none"), names.index("fastv")
    for sample in walks["samples"]:
        if sample["replies"][full]["verdict"] == "right" and sample["replies"][fastv]["verdict"] == "wrong":
            assert sample["lost"] and sample["split"]
    assert any(sample["lost"] for sample in walks["samples"])


def test_figures_have_fronts_lengths_and_shifts(page: Page) -> None:
    for figure in page.data["figures"]:
        assert len(figure["costs"]) == len(figure["lengths"]) == 6
        assert {axis for point in figure["costs"] for axis in point["fronts"]} >= {"flops", "kv", "ret_decode"}
        assert not any(point["fronts"] for point in figure["costs"] if point["method"] == "oracle")
        assert figure["shifts"]["replies"] == 6
    walks = page.data["figures"][1]
    assert walks["shifts"]["events"] and len(walks["shifts"]["median"]) > 10


def test_a_report_says_what_it_leaves_out(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"paths.results={stored}", f"to={tmp_path / 'r.html'}", "samples=2"]) == 0
    assert "4 samples (20 left out" in capsys.readouterr().out
    text = (tmp_path / "r.html").read_text()
    assert "20 more are left out" in text and len(Page(text).data["pictures"]) == 4


def test_a_report_has_no_more_than_there_is_room_for(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROOM", 60_000)
    written = build.report(build.Chosen(results=stored), 40, "")
    gallery = Page(written.html).data["gallery"]
    assert [part["leftOut"] + len(part["samples"]) for part in gallery] == [12, 12]
    assert 2 <= written.samples < 24 and all(len(json.dumps(part["samples"])) < 30_000 for part in gallery)


def test_pictures_that_are_not_here_are_said_to_be_missing(copied: Callable[[], Path], tmp_path: Path) -> None:
    results = copied()
    for file in results.glob("runs/*/glyph_walk/*/*/config.yaml"):
        file.write_text(re.sub("content: .*", "content: other", file.read_text()))
    assert main(["report", f"paths.results={results}"]) == 0
    (walks,) = [part for part in Page((results / "report.html").read_text()).data["gallery"]
                if part["benchmark"] == "glyph_walk"]  # fmt: skip
    assert all(s["missing"] == "the data here are not those of the run" and not s["pictures"] for s in walks["samples"])


def test_texts_never_become_markup(copied: Callable[[], Path]) -> None:
    results = copied()
    sample = poison(results)
    where = [f"paths.results={results}", "benchmark=glyph_walk"]
    assert main(["report", *where]) == 0 and main(["report", "compare", sample, *where]) == 0
    for name in ("report.html", "compare.html"):
        text = (results / name).read_text()
        assert "<img" not in text and ATTACK not in text
        page = Page(text)
        assert [tag for tag, _ in page.tags].count("script") == len(page.scripts)
        assert ATTACK in json.dumps(page.data["gallery"], ensure_ascii=False)


def test_half_a_character_is_spelt_out() -> None:
    made = render("compare.html.j2", [], {"text": "\ud800"}, sample="\ud800", title="", command="")
    assert made.encode() and "Sample \\ud800" in made


def test_records_of_another_version_are_one_line(copied, capsys):
    results = copied()
    file = next(results.glob("runs/*/glyph_walk/fastv@0.333/*/attention-*.jsonl"))
    file.write_text(file.read_text().replace('"boxes"', '"places"'))
    assert main(["report", f"paths.results={results}"]) == 2
    printed = capsys.readouterr().err
    assert "made by another version (KeyError('boxes'))" in printed and printed.count("\n") == 1


def test_changes_add_up() -> None:
    assert changes([(0, [1, 2, 3]), (4, [2, 5])]) == [[0, [1, 2, 3], []], [4, [5], [1, 3]]]


def test_samples_are_ranked_by_record_then_by_disagreement() -> None:
    credit = {"a": (1, 1, 0), "b": (1, 0, 0), "c": (1, 1, 1), "d": (0, 0, 1)}
    rows = [{"cell": name, "label": name, "method": name} for name in ("none", "fastv", "random")]
    samples = pd.DataFrame([{"id": key, "cell": row["cell"], "credit": value} for key, values in credit.items()
                            for row, value in zip(rows, values, strict=True)])  # fmt: skip
    found = ranked(rows, samples, {"c"})
    assert list(found.index) == ["c", "b", "a", "d"]  # random has no say: it is always wrong somewhere
    assert list(found.lost) == [False, True, False, False] == list(found.split)


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["compare", "nope"], "no run has a sample 'nope'"),
        (["compare", "{id}"], "is in 2 sections: "),
        (["compare", "{id}", "benchmark=glyph_walk", "method=nope"], "no method nope has sample"),
        (["compare"], "report compare needs the id of a sample"),
        (["compare", "a", "b"], "compare and the id of one sample; got 'b'"),
        (["compare", "{id}", "samples=3"], "unknown key samples"),
        (["other"], "or compare and the id of one sample; got 'other'"),
        (["samples=many"], "samples must be a whole number"),
        (["samples=-1"], "samples must be at least 0"),
        (["model=nope"], "no run with model nope"),
        (["protocol=nope"], "no run under protocol nope"),
        (["method=fastv"], "unknown key method"),
        (["samples=1", "to=/dev/null/report.html"], "cannot write /dev/null/report.html"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments, culprit, stored, capsys):
    ids = {json.loads(line)["id"] for file in stored.glob("runs/*/*/none/*/samples-*.jsonl")
           for line in file.read_text().splitlines()}  # fmt: skip
    shared = next(i for i in ids if all(f'"{i}"' in f.read_text() for f in stored.glob("runs/*/*/none/*/samples-*")))
    given = [argument.replace("{id}", shared) for argument in arguments]
    assert main(["report", f"paths.results={stored}", *given]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("vtpbench: ") and printed.count("\n") == 1 and culprit in printed, printed


def test_no_runs_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"paths.results={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("vtpbench: no runs under")
