"""Printed costs beside formulas: the shipped experiments to the last digit, and what is said where one does not fit."""

from __future__ import annotations

import io
import math
from decimal import Decimal
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.runs.compose import Configs
from harness.runs.errors import InputError
from harness.runs.experiment import Experiment
from harness.tables.computed import Computed, ComputedTable, agreement, compute
from harness.tables.frames import TablesError
from harness.tables.published import Published


@cache
def rows() -> Published:
    return Published.read()


@cache
def shipped(name: str) -> ComputedTable:
    return compute(Experiment.read(name, Configs.find([])).computed, rows().rows)


def lines(name: str, row: str, formula: str) -> list[Computed]:
    return [line for line in shipped(name).rows if (line.row, line.formula) == (row, formula)]


@pytest.mark.parametrize(
    ("name", "row", "formula", "printed", "how"),
    [
        ("desap_efficiency", "p0882", "desap", "3.82", "rounded"),
        ("desap_efficiency", "p0890", "desap", "0.42", "rounded"),
        ("desap_efficiency", "p0894", "desap", "0.42", "rounded"),
        ("desap_efficiency", "p3749", "desap", "1.25", "rounded"),
        ("desap_efficiency", "p3636", "btp", "0.83", "rounded"),
        ("desap_efficiency", "p3704", "btp", "0.41", "truncated (rounded: 0.42)"),
        ("desap_efficiency", "p3732", "btp", "7.44", "rounded"),
        ("desap_efficiency", "p1456", "sparsevlm", "4.62", "rounded"),
        ("desap_efficiency", "p0886", "sparsevlm", "1.31", "rounded"),
        ("dstp_efficiency", "p0355", "dstp.prefill", "1.637", "truncated (rounded: 1.638)"),
        ("dstp_efficiency", "p0361", "dstp.prefill_share", "0.546", "rounded"),
        ("dstp_efficiency", "p0367", "dstp.prefill_share", "0.363", "truncated (rounded: 0.364)"),
    ],
)
def test_printed_to_the_last_digit(name: str, row: str, formula: str, printed: str, how: str) -> None:
    (line,) = lines(name, row, formula)
    assert (line.printed, line.computed, line.verdict, line.agrees) == (printed, printed, how, True)


@pytest.mark.parametrize(
    ("name", "row", "formula", "printed", "gives"),
    [
        ("dstp_efficiency", "p0356", "dstp.decode", "2.158", "2.935"),
        ("dstp_efficiency", "p0358", "dstp.prefill", "0.546", "0.594"),
        ("dstp_efficiency", "p0364", "dstp.prefill", "0.363", "0.425"),
        ("desap_efficiency", "p0886", "desap", "1.31", "0.54"),
        ("desap_efficiency", "p1602", "sparsevlm.kv", "302.4", "302.0"),
    ],
)
def test_says_where_a_formula_does_not_give_the_printed_value(
    name: str, row: str, formula: str, printed: str, gives: str
) -> None:
    (line,) = lines(name, row, formula)
    assert (line.printed, line.verdict) == (printed, f"does not follow: formula gives {gives}")
    assert line.agrees is False


def test_every_cost_of_both_tables_is_there() -> None:
    """All of DSTP's Table V, all FLOPs of DeSAP's Table 6."""
    frame = rows().rows
    for name, paper, table in (("dstp_efficiency", "dstp", "Table V"), ("desap_efficiency", "desap", "Table 6")):
        asked = frame[
            (frame.paper_id == paper) & (frame.table_id == table) & frame.metric_id.str.contains("tflops")
        ].row_id
        assert len(asked) and set(asked) <= {line.row for line in shipped(name).rows}


def test_executed_tokens_of_sparsevlm() -> None:
    found = {line.budget[:3]: f"{line.tokens:.1f}" for line in shipped("desap_efficiency").rows if line.row in SPARSE}
    assert found == {"192": "206.5", "128": "145.4", "64 ": "82.2"}


SPARSE = ("p1500", "p1544", "p1588")


def test_width_of_dstps_keys_follows_from_what_is_printed() -> None:
    """(2.158 - 2.130 ± 0.001) T over 36 layers, 1,000 steps, 384 tokens and two products."""
    low, high = ((0.028 + e) * 1e12 / (36 * 1000 * 384 * 2) for e in (-0.001, 0.001))
    (line,) = lines("dstp_efficiency", "p0359", "dstp.decode")
    assert low < 1024 < high
    assert f"key/value width {low:.0f} to {high:.0f}; the model's is 1024, the formula's 2560" in line.note
    (addon,) = lines("dstp_efficiency", "p0362", "dstp.decode")
    assert "271 to 298 tokens fewer at a key/value width of 1024" in addon.note


def terminal(name: str, width: int) -> str:
    out = io.StringIO()
    shipped(name).print(Console(width=width, file=out))
    return out.getvalue()


@pytest.mark.parametrize("name", ["dstp_efficiency", "desap_efficiency"])
def test_nothing_is_cut_at_80_columns(name: str) -> None:
    text = terminal(name, 80)
    assert "…" not in text
    assert all(text.count(line.verdict) for line in shipped(name).rows)


def test_ways_of_printing() -> None:
    table = shipped("dstp_efficiency")
    for text in (terminal("dstp_efficiency", 250), table.to_markdown(), table.to_latex()):
        assert "does not follow: formula gives 2.935" in text and "8.71 TFLOPs" in text and "1.638" in text
    assert table.frame.loc[1, "value"] == pytest.approx(2.93501952)


def test_nothing_printed() -> None:
    entry = {"model": "llava_1_5_7b", "method": "fastv", "tokens": [192, 64], "formula": "btp"}
    table = compute([entry], rows().rows)
    assert [(x.computed, x.agrees, x.verdict, x.budget) for x in table.rows] == [
        ("1.41", None, "", "192 tokens"),
        ("0.63", None, "", "64 tokens"),
    ]
    assert table.rows[0].executed > table.rows[1].executed and table.rows[0].share < 1


@given(st.integers(1, 10**7), st.integers(0, 4))
def test_agreement_is_rounding_or_cutting(thousandths: int, digits: int) -> None:
    value = thousandths / 1000 + 1e-7  # off the ties
    exact, step = Decimal(value), Decimal(10) ** -digits
    below = math.floor(exact / step) * step
    near = below if exact - below < step / 2 else below + step
    for units in (-1, 0, 1, 2):
        printed = f"{below + units * step:.{digits}f}"
        expected = "rounded" if Decimal(printed) == near else "truncated" if Decimal(printed) == below else ""
        assert agreement(value, printed)[1].split(" ")[0] == expected


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"row": "p0355"}, "computed.formula= is missing|formula= is missing"),
        ({"row": "p0355", "formula": "dstp"}, "no formula dstp; known: fastv"),
        ({"row": "p9999", "formula": "desap"}, "no row p9999"),
        ({"row": "p0358", "formula": "dstp.prefill"}, "computed p0358: tokens= is missing"),
        ({"row": "p0355", "formula": "dstp.prefill", "token": 1}, "unknown key computed.token"),
        ({"row": "p0355", "formula": "dstp.prefill", "text": 1}, "takes no text"),
        ({"row": "p0355", "formula": "dstp.prefill_share"}, "needs share"),
        ({"row": "p0385", "formula": "btp", "tokens": 1}, "no model with known sizes qwen3_vl_4b_thinking"),
        ({"row": "p3612", "formula": "btp"}, "computed p3612: no schedule of vtw for 236 of 576 tokens"),
        ({"row": "p0880", "formula": "desap"}, "no unit min:s"),
        ({"formula": "btp", "tokens": 1}, r"no model with known sizes \(none\)"),
    ],
)
def test_bad_entries_are_refused_in_one_line(entry: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        compute([entry], rows().rows)
    assert "\n" not in str(error.value)


def test_what_no_formula_can_count_is_a_tables_error() -> None:
    with pytest.raises(TablesError):
        compute([{"model": "llava_1_5_7b", "method": "fastv", "formula": "btp"}], rows().rows)
