"""Divergence against numpy on the engine's logits, words of walks, and what is said of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import Tensor

from harness.cli import main
from harness.engine import Request
from harness.report.analysis import fidelity
from harness.report.analysis.fidelity import measure, words
from harness.report.analysis.fidelity_shown import draw, findings
from harness.report.analysis.kind import Ask
from harness.report.analysis.live import asked, cells, load
from harness.runs.backend import TorchBackend
from harness.runs.compose import Configs
from pruners import NoPruning, Random

SMALL = [["pruner=none"], ["pruner=random", "keep=1/3,1.0"], ["pruner=visionpulse_10"]]


def ask(results: Path = Path("none"), **changes: object) -> Ask:
    given: dict[str, object] = {"models": ("tiny_internvl",), "limit": 3}
    return Ask(results=results, configs=Configs.find(), backend=TorchBackend(), **{**given, **changes})  # type: ignore[arg-type]


def test_words_of_a_walk() -> None:
    parts = ["b4", " 3", " =", " 3", " down", " b", "5", " 4", " =", " 1", "2", " answer", " 12", ""]
    ends = [len("".join(parts[: i + 1])) for i in range(len(parts))]
    assert words("".join(parts), ends) == [
        ("place", 0), ("pips", 0), ("", 0), ("sum", 0), ("arrow", 0), ("place", 1), ("place", 1), ("pips", 1), ("", 1),
        ("sum", 1), ("sum", 1), ("", 1), ("answer", 1), ("", 1),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("runs")
    stored = ["model=tiny_internvl", "pruner=random", "keep=1.0", "benchmark=glyph_walk", "limit=3"]
    for setting in ([], ["protocol.max_new_tokens=1"]):  # the second is another cell, all of whose replies are wrong
        assert main(["run", *stored, *setting, f"paths.results={folder}"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "GRIDS", SMALL)
        return measure(ask(folder))


def hear(heard: list[np.ndarray], _: Request, logits: Tensor) -> None:
    heard.append(logits.numpy().copy())


def test_divergence_equals_numpy(measured: pd.DataFrame) -> None:
    """Token by token, from the logits of both passes; nothing pruned, no divergence."""
    (cell,) = cells(ask(benchmarks=("glyph_walk",)), "tiny_internvl", [["pruner=none"]])
    engine, requests = load(ask(), cell), [request for _, request in asked(cell, 3)]
    kl, agree, by_sample, first = [], [], [], []
    for request in requests:
        before, after = list[np.ndarray](), list[np.ndarray]()
        (full,) = engine.run([request], NoPruning(), cell.decoding, listen=partial(hear, before))
        again = Request(request.id, request.content, forced=tuple(full.token_ids))
        list(engine.run([again], Random(keep=1 / 3), cell.decoding, listen=partial(hear, after)))
        p, q = (np.array(part, dtype=float) for part in (before, after))
        p, q = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (p, q))
        own = (np.exp(p) * (p - q)).sum(1)
        kl, agree, by_sample = [*kl, *own], [*agree, *(p.argmax(1) == q.argmax(1))], [*by_sample, own.mean()]
        first.append(own[1])  # the pips of the first cell
    found = measured[(measured.task == "glyph_walk") & measured.keep.between(0.3, 0.4)]
    row = found[found.part == "cell"].iloc[0]
    assert row.kl == pytest.approx(np.mean(kl), rel=1e-3) and row.agreement == pytest.approx(np.mean(agree))
    assert row.n == len(kl) and row.kl_error == pytest.approx(np.std(by_sample, ddof=1) / 3**0.5, rel=1e-3)
    pips = found[(found.part == "word") & (found.word == "pips") & (found.leg == 0)].iloc[0]
    step = found[(found.part == "step") & (found.step == 1)].iloc[0]
    assert pips.kl == step.kl == pytest.approx(np.mean(first), rel=1e-3) and pips.n == step.n == 3
    assert row.kl > 0.1

    whole = measured[measured.keep == 1.0]
    assert (whole.kl.abs() < 1e-4).all() and (whole.agreement == 1).all()
    answers = {t.id: t.text.split()[-1] for t in engine.run(requests, NoPruning(), cell.decoding)}
    right = np.mean([answers[item.id] == item.answer for item, _ in asked(cell, 3)])
    assert right > 0.5 and set(whole[whole.task == "glyph_walk"].accuracy) == {right}
    assert measured[(measured.keep != 1.0) | (measured.task != "glyph_walk")].accuracy.isna().all()


def test_chunks_change_nothing(measured: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "GRIDS", SMALL)
    monkeypatch.setattr(fidelity, "MEMORY", 1)
    columns = ["part", *fidelity.KEYS, "step", "word", "leg", "kl", "agreement", "n", "kl_error"]
    pd.testing.assert_frame_equal(measure(ask())[columns], measured[columns], atol=1e-4)


def test_draws_from_its_file(measured: pd.DataFrame, tmp_path: Path) -> None:
    measured.to_csv(tmp_path / "fidelity.csv", index=False)
    frame = pd.read_csv(tmp_path / "fidelity.csv")
    assert len(draw(frame).axes) == 3
    assert "glyph_walk: a tenth of the visual keys a step keeps more than 97 % of the choices" in [
        f.claim for f in findings(frame)
    ]


def frame(**kl: float) -> pd.DataFrame:
    """Two tasks at two budgets; walks of ten cells whose loss rises, and only where pips and arrows are read."""
    base = {"random": 2.0, "fastv": 1.0, "fastv+dstp": 0.5, **kl}
    rows = []
    for method, mean in base.items():
        for keep in (1 / 3, 1 / 9):
            own = {
                "model": "m",
                "method": method,
                "keep": keep,
                "agreement": 1 - mean / 10,
                "accuracy": 1 - mean / 3,
                "n": 20,
            }
            rows += [own | {"part": "cell", "task": task, "kl": mean} for task in ("look", "walk")]
            rows += [own | {"part": "step", "task": "look", "step": i, "kl": mean} for i in range(2)]
            rows += [own | {"part": "step", "task": "walk", "step": i, "kl": mean} for i in range(30)]
            rows += [
                own | {"part": "word", "task": "walk", "word": word, "leg": i, "kl": size * mean * (1 + i)}
                for i in range(10) for word, size in (("pips", 1.0), ("arrow", 0.5), ("sum", 0.01), ("place", 0.001))
            ]  # fmt: skip
    pulse = {"model": "m", "part": "cell", "method": "visionpulse_10", "kl": 0.01, "agreement": 0.98, "task": "walk"}
    return pd.DataFrame([*rows, pulse])


def said(frame: pd.DataFrame) -> dict[str, tuple[bool | None, str]]:
    return {f.claim: (f.holds, f.numbers) for f in findings(frame)}


RANDOM, BACK = "walk: at equal budget random choice loses most", "walk: tokens that come back bring the reply nearer"
GROWS, READ = "walk: the loss grows along the reply", "only the words of a walk that are read off the picture suffer"
RANKS = "walk: agreement with the full model ranks methods as the accuracy of free replies does"
PULSE = "walk: a tenth of the visual keys a step keeps more than 97 % of the choices"


def test_findings_say_what_the_table_says() -> None:
    found = said(frame())
    back = next(claim for claim in found if claim.startswith(BACK))
    assert [found[c][0] for c in (RANDOM, back, GROWS, READ, RANKS, PULSE)] == [True] * 6
    assert found["look: the loss grows along the reply"][0] is None
    assert "look" not in {c.split(":")[0] for c in found if "come back" in c}, (
        "nothing comes back before the first token"
    )
    assert "random 2.00, fastv 1.00, fastv+dstp 0.50" in found[RANDOM][1]
    assert "keep 0.33: 1.00 -> 0.50 nats" in found[back][1] and "fastv 1.00, 10.00 (1.00)" in found[GROWS][1]
    assert "pips 6.4, arrow 3.2, sum 0.064, place 0.0064" in found[READ][1] and "98.0%" in found[PULSE][1]


def test_findings_can_fail() -> None:
    other = frame(**{"random": 0.9, "fastv+dstp": 1.0})
    other.loc[other.leg.notna(), "kl"] = 1 / other.kl
    other.loc[other.method == "visionpulse_10", "agreement"] = 0.97
    other["accuracy"] = 1 - other.accuracy
    found = said(other)
    back = next(claim for claim in found if claim.startswith(BACK))
    assert [found[c][0] for c in (RANDOM, back, GROWS, READ, RANKS, PULSE)] == [False] * 6
    assert RANKS not in said(frame().assign(accuracy=np.nan))
    few = frame()
    few.loc[few.keep < 0.3, "accuracy"] = np.nan
    few.loc[few.method == "random", "accuracy"] = np.nan
    assert said(few)[RANKS] == (None, "too few stored runs")
