"""What a trace says of a reply: where it stopped, what was thinking, whether it went in circles."""

from __future__ import annotations

import random

import pytest
import torch

from harness.benchmarks.glyph_tasks import Glyphs
from harness.engine import Decoding, Engine, Request
from harness.engine.finish import is_loop, thinking_tokens
from harness.engine.sampling import choose
from harness.models import Model
from pruners import DSTP, Blind, FastV, NoPruning, Oracle, Pruner, Random
from tests.conftest import prompts


@pytest.mark.parametrize(
    ("ids", "loop"),
    [
        ([1, 2, 3] * 20, True),
        ([7] * 48, True),
        ([7] * 47, False),
        (list(range(100)), False),
        ([*range(50), *[4, 5] * 24], True),
        ([*[4, 5] * 24, 9], False),
        (list(range(40)) * 3, True),
        (list(range(40)) * 2, False),
    ],
)
def test_loops(ids: list[int], loop: bool) -> None:
    """At least 48 tokens and three rounds of one n-gram, up to the very end."""
    assert is_loop(ids) is loop


def test_stop_strings_and_lengths(trained: Model) -> None:
    """The text ends before the stop string, the tokens with the one that completed it."""
    request = next(r for r in prompts(40) if sum(not isinstance(p, str) for p in r.content) == 1)
    (full,) = Engine(trained).run([request], NoPruning(), Decoding(max_new_tokens=64))
    word = full.text.split()[2]
    (cut,) = Engine(trained).run([request], NoPruning(), Decoding(max_new_tokens=64, stop=(word,)))
    assert cut.finish == "stop" and word not in cut.text and full.text.startswith(cut.text)
    assert cut.token_ids == full.token_ids[: cut.new_tokens]
    (short,) = Engine(trained).run([request], NoPruning(), Decoding(max_new_tokens=3))
    assert short.finish == "length" and short.token_ids == full.token_ids[:3]
    (forced,) = Engine(trained).run([request], NoPruning(), Decoding(max_new_tokens=90, ignore_eos=True))
    assert forced.new_tokens == 90 and forced.finish in ("length", "length_loop")


def test_thinking_ends_at_its_last_mark() -> None:
    class Stub:
        tokenizer = type("T", (), {"get_vocab": staticmethod(lambda: {"</think>": 9})})

    assert thinking_tokens(Stub(), [1, 2, 9, 3]) == 3  # type: ignore[arg-type]
    assert thinking_tokens(Stub(), [1, 9, 2, 9, 3]) == 4  # type: ignore[arg-type]
    assert thinking_tokens(Stub(), [1, 2, 3]) == 0  # type: ignore[arg-type]


def test_no_picture_is_ordinary_input(trained: Model) -> None:
    """Nothing to prune: retention is undefined, not zero, and the reply is the full model's."""
    request = Request("t", ("how many pips at c3?",))
    traces = [
        next(Engine(trained).run([request], p, Decoding(max_new_tokens=8))) for p in (NoPruning(), Random(), Blind())
    ]
    assert len({tuple(t.token_ids) for t in traces}) == 1
    assert all(t.ret_prefill is t.ret_decode is t.kv is None and t.error is None for t in traces)


def test_sampling_follows_the_distribution() -> None:
    """Frequencies of 4,000 draws against the softmax; filtered tokens never come."""
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    draw = random.Random(0)

    def frequencies(decoding: Decoding) -> torch.Tensor:
        tokens = [int(choose(logits, decoding, None, None, [draw])) for _ in range(4000)]
        return torch.bincount(torch.tensor(tokens), minlength=4) / 4000

    torch.testing.assert_close(frequencies(Decoding(temperature=1.0)), logits[0].softmax(0), atol=0.03, rtol=0)
    torch.testing.assert_close(frequencies(Decoding(temperature=0.5)), (2 * logits[0]).softmax(0), atol=0.03, rtol=0)
    assert frequencies(Decoding(temperature=1.0, top_k=2))[2:].sum() == 0
    assert frequencies(Decoding(temperature=1.0, top_p=0.5))[1:].sum() == 0


def test_penalties_against_transformers() -> None:
    """Repetition penalty as transformers' own processor; presence penalty is subtracted from what was written."""
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, seen = torch.tensor([[3.0, -2.9, 1.0, 2.9]]), torch.tensor([[True, True, False, False]])
    decoding = Decoding(repetition_penalty=1.5)
    want = RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([[0, 1]]), logits.clone()).argmax(-1)
    assert choose(logits, decoding, seen, seen, []).tolist() == want.tolist() == [3]
    assert choose(logits, Decoding(presence_penalty=0.2), seen, seen, []).tolist() == [3]
    assert choose(logits, Decoding(), seen, seen, []).tolist() == [0]


@pytest.mark.parametrize(
    "bad", [{"max_new_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_k": -1}, {"repetition_penalty": 0}]
)
def test_bad_decoding(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"needs|must"):
        Decoding(**bad)  # type: ignore[arg-type]


def test_evidence_follows_what_is_visible(trained: Model) -> None:
    """All, none, exactly the needed, half of the layers; and in every step of a spell that shows everything."""
    benchmark = Glyphs(task="walk")
    item = benchmark.items()[1]
    request = Request(item.id, item.content, needed=item.needed)

    def runs(pruner: Pruner) -> list[tuple[int, list[float]]]:
        (trace,) = Engine(trained).run([request], pruner, Decoding(max_new_tokens=40, ignore_eos=True))
        assert trace.error is None and all(len(shares) == len(item.needed) for _, shares in trace.evidence_runs)
        return trace.evidence_runs

    n = len(item.needed)
    assert runs(NoPruning()) == runs(Oracle()) == [(0, [1.0] * n)]
    assert runs(Blind()) == [(0, [0.0] * n)]
    ((start, halves),) = runs(FastV(keep=1 / 64))
    assert start == 0 and set(halves) <= {0.5, 1.0}
    spell = runs(DSTP(base=Random(keep=1 / 9), tau=2, L=5, swap="full"))
    assert [shares == [1.0] * n for _, shares in spell[:3]] == [False, True, False]
    assert spell[0][1] == spell[2][1] and spell[1][0] > 0
