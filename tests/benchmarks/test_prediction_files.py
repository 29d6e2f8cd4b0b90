"""Files of published predictions that are broken, or not what their place promises, are told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.benchmarks.predictions import BadFile, dynamath, mmbench, mmmu_pro, mmmu_val

BROKEN = {
    "not packed": ("mmmu_pro_x/a_cot.jsonl.gz", b"no gzip", mmmu_pro, "a_cot.jsonl.gz: Not a gzipped file"),
    "cut off": ("mmmu_pro_x/a_cot.jsonl.gz", gzip.compress(b'{"id": 1}' * 99)[:-9], mmmu_pro, "a_cot.jsonl.gz: "),
    "no JSON": ("mmmu_pro_x/a_cot.jsonl", b'{"id": 1', mmmu_pro, "a_cot.jsonl, line 1: not JSON"),
    "no letters": ("mmmu_pro_x/a_cot.jsonl", b'{"id": 1, "options": "[]"}', mmmu_pro, "line 1: no answer, response"),
    "empty": ("mmmu_pro_x/a_direct.jsonl", b"", mmmu_pro, "empty"),
    "unknown setting": ("mmmu_pro_x/a.jsonl", b"{}", mmmu_pro, "either cot or direct"),
    "other verdicts": ("dynamath/a-result.csv", b"Question ID,Variant 1\nQ1,maybe\n", dynamath, "['maybe']"),
    "wrong sums": (
        "dynamath/a-result.csv", b"Question ID,Variant 1,# of correct per question\nQ1,fail,1\n", dynamath, "its sums"
    ),
    "too short": (
        "dynamath/a-result.csv", b"Question ID,Variant 1,# of correct per question\nQ1,fail,0\n", dynamath,
        "1 questions"
    ),
    "one row": (
        "mmmu_pro_x/a_cot.jsonl",
        b'{"id": 1, "options": "[]", "answer": "A", "response": "", "pred_indexs": "A", "if_right": 1, "subject": ""}',
        mmmu_pro, "1 rows, not",
    ),
    "no table": ("dynamath/a.csv", b"", dynamath, "not a *-result.csv"),
    "no xlsx": ("x.xlsx", b"PK", mmbench, "x.xlsx: "),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_told(case: str, tmp_path: Path) -> None:
    name, content, loader, message = BROKEN[case]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadFile) as error:
        loader(tmp_path / name)
    assert message in str(error.value)


def mmmu_model(folder: Path) -> Path:
    """One model with one question."""
    question = {
        "id": "v1",
        "answer": "A",
        "all_choices": ["A", "B"],
        "index2ans": {"A": "x", "B": "y"},
        "response": "A",
    }
    (folder / "llava" / "Art").mkdir(parents=True)
    (folder / "answer_dict_val.json").write_text(json.dumps({"v1": {"ground_truth": "A"}}))
    (folder / "llava" / "total_val_output.json").write_text(json.dumps({"v1": "A"}))
    (folder / "llava" / "Art" / "output.json").write_text(json.dumps([question]))
    return folder / "llava"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("llava/Art/notes.txt", "?", "notes.txt: not a file of this layout"),
        ("llava/Art/output.json", "[]", "not on the same questions"),
        ("llava/total_val_output.json", '{"v1": "A", "v2": "A"}', "not on the same questions"),
        ("llava/total_val_output.json", "{", "total_val_output.json: not JSON"),
        ("answer_dict_val.json", '{"v1": {"ground_truth": "B"}}', "v1: answer 'A', not 'B'"),
    ],
)
def test_mmmu_folders_that_do_not_fit_are_told(name: str, content: str, message: str, tmp_path: Path) -> None:
    model = mmmu_model(tmp_path)
    assert [(row.reply, row.stored) for row in mmmu_val(model)] == [("A", "A")]
    (tmp_path / name).write_text(content)
    with pytest.raises(BadFile) as error:
        mmmu_val(model)
    assert message in str(error.value)
