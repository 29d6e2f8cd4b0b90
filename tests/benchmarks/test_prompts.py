"""Templates against the strings of their sources, places of pictures, and lmms-eval's prompts against lmms-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.benchmarks import prompts
from harness.benchmarks.errors import DataError
from harness.benchmarks.prompts import Mark, laid_out
from tests.benchmarks.parquet import local, needs_schemas, table, write

pytestmark = pytest.mark.usefixtures("own_caches", "no_network")
ONE, TWO = Mark("image_1"), Mark("image_2")


def asked(config: str, kind: str, folder: Path, row: dict[str, Any]) -> tuple[Any, ...]:
    """The texts of a benchmark's prompt for one row."""
    content = table(config, write(folder / "test.parquet", kind, [row])).items()[0].content
    return tuple(part if isinstance(part, str) else "picture" for part in content)


@needs_schemas
def test_wemath_asks_as_wemath_cot_does(tmp_path: Path) -> None:
    row = {"question": "How much?", "option": "A. 1; B. 2 ;C. 3", "answer": "A", "key": "2steps_1"}
    assert asked("wemath", "wemath", tmp_path, row) == (
        "picture",
        "Question: How much?\nOptions:\nA. 1\nB. 2\nC. 3\n\n"
        "Regarding the format, please answer following the template below, and be sure to include two <> symbols:\n"
        "<Thought process>: <<your thought process>> <Answer>: <<your option>>",
    )


@needs_schemas
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (
            "multiple choice",
            "Provide the corresponing choice option in the 'short answer' key, such as 'A', 'B', 'C', or 'D'.",
        ),
        ("float", "Format the answer as a three-digit floating-point number and provide it in the 'short answer' key."),
        ("text", "Float numbers in the answer should be formatted as three-digit floating-point numbers."),
    ],
)  # fmt: skip
def test_dynamath_asks_with_its_guide(kind: str, wanted: str, tmp_path: Path) -> None:
    example = {"solution": "[Detailed step-by-step explanation]", "short answer": "[Concise Answer]"}
    row = {"question": "What is {x}?", "answer_type": kind}
    assert asked("dynamath", "dynamath_lmms", tmp_path, row) == (
        "picture",
        "## Question\n What is {x}?\n## Answer Instruction Please provide an answer to the question outlined above. "
        "Your response should adhere to the following JSON format, which includes two keys: 'solution' and 'short "
        "answer'. The 'solution' key can contain detailed steps needed to solve the question, and the 'short answer' "
        f"key should provide a concise response. {wanted}\n\nExample of expected JSON response format:\n\n"
        + json.dumps(example, indent=4),
    )


@needs_schemas
@pytest.mark.parametrize(
    ("config", "post"),
    [
        ("mmmu_pro_standard", "Answer with the option letter from the given choices directly."),
        (
            "mmmu_pro_standard_cot",
            "Answer the following multiple choice question. The last line of your response should be of the following "
            "format: 'Answer: $LETTER' (without quotes) where LETTER is one of options. Think step by step before "
            "answering.",
        ),
    ],
)
def test_mmmu_pro_puts_pictures_at_their_marks(config: str, post: str, tmp_path: Path) -> None:
    rest = {f"image_{k}": None for k in range(3, 8)}
    row = {"question": "Is <image 2> like <image 1>?", "options": "['yes', 'no, <image 2>']", "answer": "A", **rest}
    wanted = ("Is ", "picture", " like ", "picture", "?\nA. yes\nB. no, ", "picture", f"\n\n{post}")
    assert asked(config, "mmmu_pro_standard", tmp_path, row) == wanted


@needs_schemas
def test_other_templates_are_single_columns(tmp_path: Path) -> None:
    for config, column in (("mathverse", "query_wo"), ("mathverse_cot", "query_cot")):
        row = {column: "Find x.\n"}
        assert asked(config, "mathverse_testmini", tmp_path / config, row) == ("picture", "Find x.")
    assert asked("logicvista", "logicvista", tmp_path, {"question": "Which?"}) == ("picture", "Which?")


def test_places_of_pictures() -> None:
    columns = ["image_1", "image_2"]
    assert laid_out("a <image 1> b", columns, "first") == (ONE, TWO, "a <image 1> b")
    assert laid_out("a <image 2> b", columns, "interleaved") == (ONE, "a ", TWO, " b")
    assert laid_out("<image 2><image 1><image 3>", columns, "interleaved") == (TWO, ONE, "<image 3>")
    assert laid_out("a", columns, "numbered") == ("Image-1: ", ONE, "Image-2: ", TWO, "a")
    assert laid_out("a", columns[:1], "numbered") == (ONE, "a")
    assert laid_out("", columns[:1], "first") == (ONE,)
    assert laid_out("a", [], "first") == laid_out("a", [], "interleaved") == ("a",)


@needs_schemas
def test_templates_see_columns_by_names_without_blanks(tmp_path: Path) -> None:
    made = table(
        "wemath", local(tmp_path, "wemath"), prompt="{{ question_number }} {{ knowledge_concept }}{{ hint }}\n"
    )
    assert made.items()[1].content[1] == "1 knowledge concept 1\n"
    for prompt, message in (
        ("{{ image_path }}", "prompt cannot be filled in: 'image_path' is undefined; there are: ID, answer, hint, "),
        ("{{ ''.__class__.__mro__ }}", "prompt cannot be filled in: access to attribute '__class__' of 'str' object"),
        ("{{ 1 // 0 }}", "prompt cannot be filled in: "),
    ):
        with pytest.raises(DataError, match=message) as caught:
            table("wemath", tmp_path, prompt=prompt).items()[0]
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="prompt is not a jinja2 template: "):
        table("wemath", tmp_path, prompt="{{ question")


def test_which_task_makes_the_prompts() -> None:
    tasks = {"lmms": "gqa", "lmms:pope_adv": "pope_adv", "see lmms: {{ question }}": None, "lmms {{ x }}": None}
    assert {prompt: table("gqa", None, prompt=prompt).task for prompt in tasks} == tasks
    for prompt in ("lmms:", "lmms: "):
        with pytest.raises(ValueError, match="prompt=lmms: names no task"):
            table("gqa", None, prompt=prompt)


@needs_schemas
def test_gqa_asks_as_lmms_eval_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task loads pictures from the hub by itself; nothing of that happens, and the stop string is not added."""
    made = table("gqa", local(tmp_path, "gqa"))
    text = "question 1\nAnswer the question using a single word or phrase."
    assert made.items()[1].content[1:] == (text,) and made.items()[1].system == ()
    assert made.generation["max_new_tokens"] == 16 and "until" not in made.generation

    def ask(*args: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr(prompts, "_asked", ask)
    assert table("gqa", tmp_path).items()[1].content[1:] == (text,)  # kept on disk
    with pytest.raises(AssertionError, match="asked again"):
        table("gqa", tmp_path, lmms_model="qwen_vl").items()[0]


@needs_schemas
def test_what_lmms_eval_cannot_do_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local(tmp_path, "pope")
    with pytest.raises(DataError, match=r"prompts of nope: LookupError: lmms-eval has no task 'nope'$"):
        table("pope", tmp_path, prompt="lmms:nope").items()[0]
    for model in ("qwen3_vl", "qwen_vl"):  # a model without a variant of its own, and a variant
        assert table("pope", tmp_path, lmms_model=model).items()[0].content[1]
    with pytest.raises(DataError, match=r"prompts of pope: LookupError: no model 'qwen3vl'; the task has .*default"):
        table("pope", tmp_path, lmms_model="qwen3vl").items()[0]
    monkeypatch.setattr(prompts, "LMMS_SECONDS", 0.01)
    with pytest.raises(DataError, match=r"lmms-eval took more than 0.01 s for the prompts of pope"):
        table("pope", tmp_path).items()[0]
    monkeypatch.setattr(prompts.sys, "executable", "/bin/false")
    monkeypatch.setattr(prompts, "LMMS_SECONDS", 9)
    with pytest.raises(DataError, match="lmms-eval cannot make the prompts of pope: exit code 1"):
        table("pope", tmp_path).items()[0]

    def version(name: str) -> str:
        raise prompts.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(prompts.metadata, "version", version)
    with pytest.raises(DataError, match="prompt=lmms needs the package lmms-eval, which is not installed"):
        table("pope", tmp_path).items()[0]
