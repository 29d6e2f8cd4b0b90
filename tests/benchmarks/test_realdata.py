"""Real rows: every set in REALDATA_DIR that matches a benchmark gives items, and the prompts that lmms-eval gives."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.benchmarks.sets import SETS
from harness.benchmarks.table import Table
from harness.models.pictures import open_picture
from tests.benchmarks.parquet import REALDATA, ROOT, table

pytestmark = pytest.mark.usefixtures("own_caches", "no_network")
FOLDERS = [folder for folder in sorted(REALDATA.glob("*")) if folder.is_dir()]
FOUND = [
    (n, f) for n in SETS for f in FOLDERS
    if (f.name.startswith(n) or n.startswith(f.name)) and (n, f.name) != ("mmmu", "mmmu_pro")
]  # fmt: skip
missing = pytest.mark.skip(reason=f"no data set of a benchmark in {REALDATA} (REALDATA_DIR names another folder)")
CASES = FOUND or [pytest.param("none", REALDATA, marks=missing)]
MODELS = ("default", "qwen3_vl")


@pytest.mark.parametrize(("name", "folder"), CASES, ids=lambda value: getattr(value, "name", value))
def test_items_of_real_sets(name: str, folder: Path) -> None:
    made = table(name, folder, prompt="{{ question }}\n{{ options | lettered }}")
    items = made.items()
    assert len(items) and len({item.id for item in items}) == len(items)
    for item in items:
        pictures = [part for part in item.content if isinstance(part, bytes)]
        assert pictures
        assert all(min(open_picture(part).size) > 8 for part in pictures)
        if options := item.meta.get("options"):
            assert len(options) > 1 and item.answer in "ABCDEFGHIJ"[: len(options)], item.meta
    sizes = Counter(Counter(item.cluster for item in items).values())
    assert set(sizes) <= {"wemath": {3, 4}, "dynamath": {10}, "mathverse": {5}}.get(name, set(range(99)))


def test_several_pictures_in_one_question() -> None:
    folder = REALDATA / "mmmu_pro"
    if not folder.is_dir():
        pytest.skip(f"no mmmu_pro in {REALDATA}")
    items = {item.id: item for item in table("mmmu_pro_standard", folder).items()}
    item = items["test_Music_251"]
    kinds = [part if isinstance(part, str) else Image.open(io.BytesIO(part)).format for part in item.content]
    assert len([kind for kind in kinds if kind == "PNG"]) == 5
    assert kinds[1] == " is a substitution for how many parts of the basic division?\nA. "
    assert not any("<image" in kind for kind in kinds)
    row = next(row for row, facts in table("mmmu_pro_standard", folder).facts if facts.id == "test_Music_251")
    order = [1, *(int(option[7]) for option in item.meta["options"] if option.startswith("<image"))]
    rows = table("mmmu_pro_standard", folder).rows
    assert [p for p in item.content if isinstance(p, bytes)] == [rows.picture(row, f"image_{k}") for k in order]


def cases() -> list[tuple[Table, dict[str, Any]]]:
    """Every version of every real set that its folder has, by both prompt variants where a task has them."""
    found = []
    for name, folder in FOUND:
        for version in SETS[name].versions:
            for model in MODELS if name.startswith("mmmu") else MODELS[:1]:
                made = table(name, folder, version=version, lmms_model=model)
                try:
                    rows = [row for row, _ in made.facts]
                except ValueError:
                    continue
                files = [str(file) for file in made.rows.sources]
                case = {"task": made.chosen.task, "model": model, "files": files, "pictures": made.rows.columns}
                found.append((made, {**case, "rows": rows}))
    return found


@pytest.mark.skipif(not FOUND, reason=f"no data set of a benchmark in {REALDATA}")
def test_prompts_are_those_of_lmms_eval(tmp_path: Path, own_caches: Path) -> None:
    """Over pictures that stand-ins replace, against the functions of the tasks over the real ones."""
    made = cases()
    assert {(benchmark.set, Path(str(benchmark.data))) for benchmark, _ in made} == set(FOUND)
    file = tmp_path / "cases.json"
    file.write_text(json.dumps([case for _, case in made], default=str))
    out = subprocess.run(
        [sys.executable, "-P", str(ROOT / "tests" / "benchmarks" / "lmms_reference.py"), str(file)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(own_caches), "OPENAI_API_KEY": "none"},
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-2000:]
    done = []
    for (benchmark, case), pairs in zip(made, json.loads(out.stdout.splitlines()[-1]), strict=True):
        for row, (ours, theirs) in zip(case["rows"], pairs, strict=True):
            columns = [part["picture"] for part in ours["parts"][:-1]]
            pictures = [open_picture(benchmark.rows.picture(row, column)) for column in columns]
            found = {
                "text": ours["parts"][-1]["text"],
                "system": ours["system"],
                "sizes": [list(p.size) for p in pictures],
            }
            assert found == theirs
        done.append(f"{case['task']} as {case['model']}: {len(pairs)}")
        if benchmark.set == "mathverse":  # ours is a template that gives the same text without lmms-eval
            assert benchmark.prompt == "{{ query_wo | trim }}"
            assert [item.content[-1] for item in benchmark.items()] == [theirs["text"] for _, theirs in pairs]
    print("rows with lmms-eval's prompts:", ", ".join(done))
