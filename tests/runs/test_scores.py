"""Verdicts lie beside the samples: another rule or a judge scores again without generating."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from harness.benchmarks import scoring
from harness.benchmarks.base import Scoring
from harness.benchmarks.judge.base import Judge, Question, Reply
from harness.benchmarks.scoring.verdict import JudgeUnavailable, Verdict, unjudged
from harness.cli import main
from harness.runs.compose import Configs
from harness.runs.errors import InputError
from harness.runs.log import read_log
from harness.runs.rescore import cell_folders, judge_config, rescore
from harness.runs.run import run_cells
from harness.runs.scores import Scorer, ScoreSpec, measure, read_scored, read_scores
from harness.tables import leaderboard

CONFIGS = Configs.find()


class Oracle(Judge):
    """A judge that finds a 2 in every right answer, unless it is away; counts its questions."""

    def __init__(self, away: bool = False) -> None:
        self.name, self.identity = "oracle", {"kind": "test", "model": "oracle/1"}
        self.away, self.asked = away, 0

    def reply(self, question: Question) -> Reply:
        self.asked += 1
        if self.away:
            raise JudgeUnavailable("oracle: connection refused")
        return Reply("1" if "2" in question.prompt else "0", "oracle/1")


def asks(item, answer, ask):
    """A rule that only a judge can apply."""
    if ask is None:
        return unjudged("test.judged")
    right = ask(answer) == "1"
    return Verdict(right, float(right), answer, "test.judged")


@pytest.fixture
def judged(monkeypatch):
    monkeypatch.setitem(scoring.JUDGED, "test.judged", asks)


@pytest.fixture
def folder(run) -> Path:
    (outcome,) = run("limit=8")
    return outcome.cell.folder


def test_a_rule_that_needs_a_judge_waits_for_one(folder, judged, capsys):
    before = read_log(folder)
    (row,) = rescore([folder], {"rule": "test.judged"}, None, 1, keep_judge=True)
    assert (row["value"], row["unjudged"], row["judge"]) == (None, 8, "none") and 0 <= row["lenient"] <= 1
    assert "8 of 8 samples are unjudged" in row["note"]
    away = Oracle(away=True)
    (row,) = rescore([folder], {}, away, 2, keep_judge=True)
    assert row["unjudged"] == 8 and away.asked == 8 and row["value"] is None
    judge = Oracle()
    (row,) = rescore([folder], {}, judge, 2, keep_judge=True)
    assert judge.asked == 8 and row["unjudged"] == 0 and row["judge"] == "oracle/1"
    right = [line["text"] for line in before.values()]
    assert row["value"] == sum("2" in text for text in right) / 8
    (again,) = rescore([folder], {}, judge, 2, keep_judge=True)
    assert judge.asked == 8 and again == row  # nothing is asked twice
    assert read_log(folder) == before
    assert json.loads((folder / "summary.json").read_text())["accuracy"] == row["value"]
    assert len({file.name.rpartition("-")[0] for file in (folder / "scores").iterdir()}) == 3  # rule, none, oracle


def test_tables_show_the_last_scoring(folder, judged, tmp_path):
    results = tmp_path / "out"
    list(rescore([folder], {"rule": "test.judged"}, None, 1, keep_judge=True))
    board = leaderboard(results)
    assert board.frame.unjudged[0] == 8 and board.frame.accuracy.isna()[0] and "unjudged" in board.to_markdown()
    assert "Rules: test.judged; lenient:" in board.to_markdown()
    list(rescore([folder], {"rule": "glyph.lookup"}, None, 1, keep_judge=True))
    assert leaderboard(results).frame.accuracy.notna()[0] and "unjudged" not in leaderboard(results).to_markdown()


def test_what_a_kill_left_unscored_is_scored_at_the_next_run(run, folder):
    (file,) = (folder / "scores").iterdir()
    whole = file.read_text()
    file.write_text("".join(line + "\n" for line in whole.splitlines()[:3]) + '{"id": "0')
    (outcome,) = run("limit=8")
    assert sorted(file.read_text().splitlines()) == sorted(whole.splitlines())
    assert outcome.summary["unjudged"] == 0


def test_a_rule_that_has_changed_scores_all_that_is_there(run, folder, monkeypatch):
    """Whatever the next run asks for; else the table would call the rest unjudged."""
    monkeypatch.setattr(scoring, "version", lambda: "another")
    run("limit=3")
    scored = read_scored(folder, ScoreSpec.read(folder)).values()
    assert len(scored) == 8 and None not in [line["value"] for line in scored]


def test_a_thought_without_end_is_unparsed_not_wrongly_read(folder):
    spec = ScoreSpec.read(folder)
    thinking = ScoreSpec(spec.scoring, True, "cut")
    assert thinking.stem != spec.stem
    scorer = Scorer(folder, thinking, None, 1, print)
    scorer.complete(read_log(folder).values())
    scorer.close()
    assert all(line["unparsed"] and line["value"] == 0 for line in read_scores(folder, thinking.stem).values())


def test_several_replies_per_sample_are_averaged(run):
    (outcome,) = run("limit=6", "repeats=3", "protocol.temperature=1")
    records = list(read_scored(outcome.cell.folder, ScoreSpec.read(outcome.cell.folder)).values())
    assert len(records) == 18
    mean = measure(records, ["mean"])["mean"]
    assert mean["n"] == 6 and mean["value"] == pytest.approx(sum(r["value"] for r in records) / 18)


def test_failed_samples_have_no_verdict(plan, backend):
    from dataclasses import replace

    broken = replace(backend, failing=frozenset({"00001"}))
    (outcome,) = run_cells(plan("limit=4", "subset.mode=first").cells, broken)
    scored = read_scored(outcome.cell.folder, ScoreSpec.read(outcome.cell.folder))
    assert scored["00001", 0]["value"] is None and outcome.summary["unjudged"] == 0
    assert len(read_scores(outcome.cell.folder, outcome.summary["scoring"])) == 3


def test_the_id_of_a_scoring_tells_judges_and_rules_apart():
    names = Scoring("glyph.walk", "glyph.walk")
    stems = [
        ScoreSpec(names, False, "cut").stem,
        ScoreSpec(names, False, "whole").stem,
        ScoreSpec(names, False, "cut", {"model": "a/b"}).stem,
        ScoreSpec(names, False, "cut", {"model": "a/c"}).stem,
        ScoreSpec(Scoring("glyph.walk", "glyph.lookup"), False, "cut").stem,
    ]
    assert len(set(stems)) == len(stems) and stems[2].startswith("glyph.walk-a_b-")
    other = Scoring("glyph.walk", "glyph.walk", ("mean", "mean"))
    assert ScoreSpec(other, False, "cut").stem == stems[0]  # metrics are computed, not stored


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "score needs cell folders"),
        (["/nowhere"], "/nowhere is not the folder of a cell"),
        (["{folder}", "rule=guess"], "unknown rule 'guess'; known: "),
        (["{folder}", "metrics=mean,nothing"], "unknown metric 'nothing'"),
        (["{folder}", "limit=3"], "unknown key limit"),
        (["{folder}", "judge=nobody"], "unknown judge 'nobody'"),
        (["{folder}", "judge.colour=red"], "unknown key judge.colour"),
        (["{folder}", "judge=openai_compatible"], "judge"),
    ],
)
def test_bad_commands_say_what_is_wrong(folder, arguments, said, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(["score", *(a.format(folder=folder) for a in arguments)]) == 2
    assert said in capsys.readouterr().err


def test_the_verb_scores_every_cell_below_a_folder(run, tmp_path, capsys):
    run("pruner=none,blind", "limit=4")
    assert main(["score", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3 and out[0].split()[:4] == ["cell", "rule", "judge", "metric"]
    assert len(cell_folders([str(tmp_path / "out"), str(tmp_path / "out" / "runs")])) == 2
    with pytest.raises(InputError, match="one judge at a time"):
        judge_config(["seed=0,1"], CONFIGS)


def test_a_verdict_belongs_to_the_reply_that_it_was_made_on(run, folder):
    """A sample that is generated again is scored again, although its question has a verdict."""
    (log,) = folder.glob("samples-*.jsonl")
    first, *rest = log.read_text().splitlines()
    changed = json.loads(first) | {"text": json.loads(first)["answer"]}
    log.write_text("".join(line + "\n" for line in [json.dumps(changed), *rest]))
    key = (changed["id"], 0)
    assert read_scored(folder, ScoreSpec.read(folder))[key]["value"] is None
    run("limit=8")
    assert read_scored(folder, ScoreSpec.read(folder))[key]["value"] == 1


def test_a_cell_that_is_judged_in_part_has_no_accuracy(folder, judged, tmp_path):
    class Tired(Oracle):
        def reply(self, question: Question) -> Reply:
            self.away = self.asked >= 5
            return super().reply(question)

    (row,) = rescore([folder], {"rule": "test.judged"}, Tired(), 1, keep_judge=True)
    assert (row["value"], row["unjudged"], row["n"]) == (None, 3, 5)
    frame = leaderboard(tmp_path / "out").frame
    assert frame.accuracy.isna()[0] and frame.accuracy_low.isna()[0] and frame.metric_value.isna()[0]


def test_a_new_metric_keeps_what_a_judge_has_said(folder, judged):
    list(rescore([folder], {"rule": "test.judged"}, Oracle(), 1, keep_judge=True))
    (row,) = rescore([folder], {"metrics": "mean"}, None, 1, keep_judge=True)
    assert row["unjudged"] == 0 and row["judge"] == "oracle/1"
    (row,) = rescore([folder], {}, None, 1, keep_judge=False)
    assert row["unjudged"] == 8 and row["judge"] == "none"


def test_what_was_scored_otherwise_is_said(folder, judged, tmp_path):
    list(rescore([folder], {"rule": "test.judged"}, Oracle(), 1, keep_judge=True))
    text = leaderboard(tmp_path / "out").to_markdown()
    assert "vtp/1 with benchmark.rule changed" in text and "test.judged (judge oracle/1)" in text


@pytest.mark.parametrize("change", ["rule=textvqa.lmms", "rule=mcq.vlmevalkit", "lenient=vqa.lenient",
                                    "metrics=wemath.strict", "metrics=mmvet.rec"])  # fmt: skip
def test_rules_and_metrics_that_do_not_fit_leave_the_cell_as_it_was(folder, change, capsys, tmp_path):
    before = (folder / "config.yaml").read_text()
    assert main(["score", str(folder), change]) == 2
    assert "does not fit this benchmark" in capsys.readouterr().err
    assert (folder / "config.yaml").read_text() == before
    assert main(["table", f"paths.results={tmp_path / 'out'}", "to=md"]) == 0


@pytest.mark.parametrize("verb", ["table", "status", "score"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: _edit(folder, lambda c: c.pop("scoring")), "was made by another version"),
        (lambda folder: _edit(folder, lambda c: c["scoring"].update(metrics=["gone"])), "unknown metric 'gone'"),
        (lambda folder: next((folder / "scores").iterdir()).write_text('{"id": "x"}\n'), "is damaged; remove it"),
    ],
)
def test_damaged_cells_are_one_line(folder, tmp_path, verb, damage, said, capsys):
    damage(folder)
    target = str(folder) if verb == "score" else f"paths.results={tmp_path / 'out'}"
    assert main([verb, target]) == 2
    assert said in capsys.readouterr().err


def _edit(folder: Path, change) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    change(config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_configurations_of_other_programs_are_passed_over(folder, tmp_path):
    other = tmp_path / "out" / "wandb" / "config.yaml"
    other.parent.mkdir()
    other.write_text("a: 1\n")
    assert cell_folders([str(tmp_path / "out")]) == [folder]
