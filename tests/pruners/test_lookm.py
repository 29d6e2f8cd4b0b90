"""LOOK-M against loops over entries, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch

from pruners import DSTP, FastV, LookM, Pipeline, PrunerError, VisionPulse, VLCache
from tests.pruners.caches import HEADS, MODEL, WIDTH, cache_view

Rows = list[list[float]]
PROMPTS = [
    "tt" + 14 * "v" + "tttt",
    "t" + 5 * "v" + "ttt" + 7 * "v" + "tt",
    "ttttttttvvvvt",
    "v" * 11 + "t",
    "tvtvtvtv",
]


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def expected(
    marks: str, score: list[float], keys: Rows, values: Rows, hh: int, recent: int, merge: str
) -> tuple[list[int], Rows, Rows]:
    """Kept entries of one head in order, and their keys and values."""
    old = range(len(marks) - recent)
    texts = [i for i in old if marks[i] == "t"]
    pictures = sorted((i for i in old if marks[i] == "v"), key=lambda i: (-score[i], i))
    kept = sorted([*texts, *pictures[: max(0, hh - len(texts))], *range(len(old), len(marks))])
    groups: dict[int, list[tuple[int, float]]] = {i: [] for i in kept}
    for e in set(range(len(marks))) - set(kept):
        best = max(kept, key=lambda i: cosine(keys[e], keys[i]))
        groups[best].append((e, cosine(keys[e], keys[best])))

    def merged(x: Rows) -> Rows:
        out = []
        for i in kept:
            row = list(x[i])
            for e, similarity in groups[i]:
                for c in range(len(row)):
                    row[c] += {
                        "pivotal": (x[e][c] + x[i][c]) / 2, "averaged": x[e][c], "weighted": similarity * x[e][c],
                    }[merge]  # fmt: skip
            out.append([value / (1 + len(groups[i])) for value in row])
        return out

    if merge == "none":
        return kept, [keys[i] for i in kept], [values[i] for i in kept]
    return kept, merged(keys), merged(values)


@pytest.mark.parametrize("merge", ["pivotal", "averaged", "weighted", "none"])
@pytest.mark.parametrize("marks", PROMPTS)
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("hh", [0.01, 0.4])
def test_equals_loops(marks: str, group: int, hh: float, merge: str) -> None:
    """One and several query heads to a key, coarse scores that tie, text beyond the budget, windows of one entry."""
    rng = torch.Generator().manual_seed(len(marks) + group)
    score = torch.randint(0, 6, (HEADS * group, len(marks)), generator=rng).float()
    charged: list[int] = []
    view = cache_view(marks, lambda _: score, charged=charged)
    before = view.keys.clone(), view.values.clone(), score.clone()
    pruner = LookM(hh=hh, recent=0.1, merge=merge)  # type: ignore[arg-type]
    edit = pruner.at_cache(view)
    assert all(map(torch.equal, before, (view.keys, view.values, score)))
    sizes = max(1, int(len(marks) * hh)), max(1, int(len(marks) * 0.1))
    assert pruner.sizes(len(marks)) == sizes
    shared = score.view(HEADS, group, -1).mean(1)
    mirrored = pruner.at_cache(cache_view(marks, lambda _: score.view(HEADS, group, -1).flip(1).flatten(0, 1)))
    for head in range(HEADS):
        keys, values = view.keys[head].tolist(), view.values[head].tolist()
        kept, new_keys, new_values = expected(marks, shared[head].tolist(), keys, values, *sizes, merge)
        if edit is None:
            assert kept == list(range(len(marks)))
            continue
        assert edit.source[head].tolist() == kept
        assert mirrored is not None and torch.equal(mirrored.source, edit.source)
        if merge == "none":
            assert edit.keys is None and edit.values is None and not charged
            continue
        assert edit.keys is not None and edit.values is not None
        torch.testing.assert_close(edit.keys[head], torch.tensor(new_keys))
        torch.testing.assert_close(edit.values[head], torch.tensor(new_values))
        assert charged == [2 * HEADS * len(kept) * (len(marks) - len(kept)) * WIDTH]


def test_heads_keep_their_own_and_the_type_of_the_cache() -> None:
    """Heads with other scores keep other entries; half precision is merged in float32 and handed back as it was."""
    score = torch.stack([torch.arange(20.0), -torch.arange(20.0)])
    view = cache_view("tt" + 16 * "v" + "tt", lambda _: score)
    edit = LookM(keep=0.5).at_cache(view)
    assert edit is not None and not torch.equal(*edit.source)
    assert edit.source.shape == (2, 10)  # 5 recent ones and 5 older ones, text among them
    object.__setattr__(view, "keys", view.keys.bfloat16())
    edit = LookM(keep=0.5).at_cache(view)
    assert edit is not None and edit.keys is not None and edit.keys.dtype == torch.bfloat16


@pytest.mark.parametrize(("marks", "keep"), [("t" * 12, 0.2), ("tttttvt", 0.9), ("tvvvvvt", 1.0)])
def test_leaves_alone(marks: str, keep: float) -> None:
    """No picture, a picture of one token within the budget, a budget of everything."""
    assert LookM(keep=keep).at_cache(cache_view(marks, lambda _: torch.ones(HEADS, len(marks)))) is None


def test_settings() -> None:
    assert LookM().resolved(MODEL) == LookM(hh=0.1, recent=0.1)
    assert LookM(keep=0.3).resolved(MODEL) == LookM(keep=0.3)
    assert (
        LookM(keep=0.3).sizes(103) == (15, 15)
        and LookM(keep=1.0).sizes(7) == (4, 3)
        and LookM(hh=0.4).sizes(606) == (242, 60)
    )
    for wrong in ({"keep": 0.2, "hh": 0.1}, {"keep": 0.0}, {"recent": 1.5}):
        with pytest.raises(PrunerError):
            LookM(**wrong)  # type: ignore[arg-type]


def test_what_cannot_follow() -> None:
    """Methods that read one entry per visual token, or edit caches too."""
    for late in (VisionPulse(), VLCache()):
        with pytest.raises(PrunerError, match="LookM"):
            Pipeline(methods=(LookM(), late)).check(MODEL)
    with pytest.raises(PrunerError, match="cache moment"):
        DSTP(base=LookM()).check(MODEL)
    Pipeline(methods=(FastV(), LookM())).check(MODEL)
    with pytest.raises(PrunerError, match="same entries in all layers"):
        Pipeline(methods=(VLCache(), VisionPulse())).check(MODEL)
