"""Where data may lie, and what is said of data that is not as expected. No schema of a real data set is needed here."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.benchmarks import data
from harness.benchmarks.errors import DataError
from harness.benchmarks.table import Table
from tests.benchmarks.parquet import png

pytestmark = pytest.mark.usefixtures("own_caches")
PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
Rows = list[dict[str, Any]]


def problems(n: int = 3, **changes: Any) -> Rows:
    """Rows as LogicVista has them."""
    row = {"question": "q", "answer": "A", "skill": ["s"], "image": {"bytes": png(1), "path": None}}
    return [{"id": f"v{i}", **row, **changes} for i in range(n)]


def put(file: Path, rows: Rows) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = pa.Table.from_pylist(rows)
    if rows and isinstance(rows[0].get("image"), dict):
        at = columns.column_names.index("image")
        columns = columns.set_column(at, "image", pa.array([row["image"] for row in rows], PICTURE))
    pq.write_table(columns, file)
    return file


def logicvista(path: Path | None, **changes: Any) -> Table:
    rules = {"rule": "logicvista.letters", "lenient": "letter.lenient"}
    return Table(set="logicvista", data=path and str(path), prompt="{{ question }}", **{**rules, **changes})


def ids(path: Path) -> list[str]:
    return [item.id for item in logicvista(path).items()]


CARD = "---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}---\nA card.\n"


@pytest.mark.usefixtures("no_network")
def test_every_layout_gives_the_same_items(tmp_path: Path) -> None:
    rows = problems()
    single = put(tmp_path / "single" / "anything.parquet", rows)
    put(tmp_path / "plain" / "test-00000-of-00001.parquet", rows)
    put(tmp_path / "data" / "data" / "test-00000-of-00001.parquet", rows)
    put(tmp_path / "data" / "data" / "train-00000-of-00001.parquet", problems(5))
    put(tmp_path / "folder" / "test" / "part.parquet", rows)
    put(tmp_path / "config" / "default" / "test.parquet", rows)
    put(tmp_path / "config" / "other" / "test.parquet", problems(5))
    put(tmp_path / "alone" / "mine-1.parquet", rows)
    put(tmp_path / "card" / "x" / "mine.parquet", rows)
    put(tmp_path / "card" / "train.parquet", problems(5))
    files = '  - split: train\n    path: "train.parquet"\n  - split: test\n    path: ["x/*.parquet"]\n'
    (tmp_path / "card" / "README.md").write_text(CARD.format(config="default", files=files))
    put(tmp_path / "shards" / "test-00000-of-00002.parquet", rows[:2])
    put(tmp_path / "shards" / "test-00001-of-00002.parquet", rows[2:])
    folders = ["plain", "data", "folder", "config", "alone", "card", "shards"]
    for path in [single, *(tmp_path / name for name in folders)]:
        assert ids(path) == ["v0", "v1", "v2"], path


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json"])
def test_pictures_beside_json(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(png(1))
    rows = problems(2, image="images/1.png")
    text = json.dumps(rows) if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    file = tmp_path / f"test{suffix}"
    file.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    first = logicvista(file)
    assert first.items()[0].content == (png(1), "q")
    before = first.content_hash()
    (tmp_path / "images" / "1.png").write_bytes(png(2))  # no data file has changed, what is asked has
    assert logicvista(file).content_hash() != before


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "images/link.png", "images/absent.png"])
def test_pictures_outside_of_the_folder_stay_closed(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    file = put(folder / "test.parquet", problems(1, image={"bytes": None, "path": name}))
    where = "is not in" if "absent" in name else "lies outside of"
    with pytest.raises(DataError, match=f"^picture '{name}' {where} {folder}$"):
        logicvista(file).items()[0]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", [base64.b64encode(png(1) * 9).decode(), "a\0b.png", "x" * 400, "loop.png"])
def test_what_names_no_picture_is_one_short_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "test.jsonl").write_text(json.dumps(problems(1, image=name)[0]))
    with pytest.raises(DataError, match=r"^picture '.*' is not ") as caught:
        logicvista(tmp_path).items()[0]
    shown = str(caught.value).split("' ")[0].removeprefix("picture '")
    assert shown == repr(name if len(name) < 80 else name[:80] + "...")[1:-1] and "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_files_are_read_as_they_are_now(tmp_path: Path, own_caches: Path) -> None:
    """Whatever their time of change says, and without a copy."""
    hashes = []
    for answer in "AB":
        file = put(tmp_path / "test.parquet", problems(answer=answer))
        os.utime(file, (1e9, 1e9))
        made = logicvista(tmp_path)
        assert [item.answer for item in made.items()] == [answer] * 3
        hashes.append((made.data_id()["files"]["test.parquet"], made.content_hash()))
    assert hashes[0][0] == hashlib.sha256(put(tmp_path / "a", problems(answer="A")).read_bytes()).hexdigest()
    assert hashes[0][0] != hashes[1][0] and not (own_caches / "datasets").exists()


@pytest.mark.usefixtures("no_network")
def test_texts_of_json_stay_texts(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    row = problems(1, image="1.png", answer="2019-05-01", question="one\u2028line", **{"": 1})[0]
    lines = [json.dumps(row, ensure_ascii=False), "", json.dumps({**row, "id": "w", "more": "12:30"})]
    (tmp_path / "test.jsonl").write_text("\ufeff" + "\n".join(lines))
    items = logicvista(tmp_path).items()
    assert [(item.answer, item.content) for item in items] == [("2019-05-01", (png(1), "one\u2028line"))] * 2


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("text", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_form_of_text(tmp_path: Path, text: pa.DataType) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    rows = problems(2, image="1.png")
    columns = {k: [row[k] for row in rows] for k in rows[0]}
    arrays = {k: pa.array(v) if k == "skill" else pa.array(v).cast(text) for k, v in columns.items()}
    pq.write_table(pa.table(arrays), tmp_path / "test.parquet")
    assert [(i.id, i.content) for i in logicvista(tmp_path).items()] == [("v0", (png(1), "q")), ("v1", (png(1), "q"))]


@pytest.mark.usefixtures("no_network")
def test_pictures_lie_in_any_part_of_any_file(tmp_path: Path) -> None:
    """Several files, several row groups, pictures inside and beside."""
    (tmp_path / "9.png").write_bytes(png(9))
    for k in range(2):
        pictures = [{"bytes": png(3 * k + i), "path": None} for i in range(2)] + [{"bytes": None, "path": "9.png"}]
        rows = [{**row, "id": f"{k}{i}"} for i, row in enumerate(problems(3))]
        columns = pa.Table.from_pylist([{n: v for n, v in row.items() if n != "image"} for row in rows])
        columns = columns.append_column("image", pa.array(pictures, PICTURE))
        pq.write_table(columns, tmp_path / f"test-0000{k}-of-00002.parquet", row_group_size=2)
    found = [item.content[0] for item in logicvista(tmp_path).items()]
    assert found == [png(0), png(1), png(9), png(3), png(4), png(9)]


def broken(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"PAR1 this is no parquet file PAR1")
    return file


def carded(folder: Path, files: str, config: str = "default") -> Path:
    put(folder / "test.parquet", problems())
    (folder / "README.md").write_text(CARD.format(config=config, files=files))
    return folder


SPLIT = '  - split: {}\n    path: "{}"\n'
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing": (lambda p: p / "x", "x does not exist: data must be a folder or one of .parquet, .jsonl"),
    "empty": (lambda p: p, "has no data files: expected files of config 'default', split 'test'"),
    "kind of file": (lambda p: broken(p / "x.csv"), "x.csv is not one of .parquet"),
    "damaged": (lambda p: broken(p / "test.parquet"), "test.parquet cannot be read: "),
    "second of two damaged": (
        lambda p: (put(p / "test-1.parquet", problems()), broken(p / "test-2.parquet"))[0].parent,
        "test-2.parquet cannot be read: ",
    ),
    "split": (
        lambda p: (put(p / "train.parquet", problems()), put(p / "dev.parquet", problems()))[0].parent,
        "has dev.parquet, train.parquet: expected files of config 'default', split 'test', such as test-00000-of-0000",
    ),
    "part": (lambda p: put(p / "test-00000-of-00003.parquet", problems()).parent, "test-00001-of-00003.parquet, one o"),
    "column": (
        lambda p: put(p / "test.parquet", [{"id": "1", "question": "q"}]),
        r"has no column 'answer' but id, question; expected: id \(text\), question \(text\), answer \(text\)",
    ),
    "type": (lambda p: put(p / "test.parquet", problems(question=["q"])), "column 'question' is list, not text"),
    "picture": (lambda p: put(p / "test.parquet", problems(image=7)), "column 'image' is int, not picture"),
    "no rows": (lambda p: put(p / "test.parquet", []), "test.parquet has no rows"),
    "no answers": (lambda p: put(p / "test.parquet", problems(answer=None)), "has no rows with an answer"),
    "config of card": (
        lambda p: carded(p, SPLIT.format("test", "test.parquet") + "- config_name: c\n  data_files: x.parquet\n", "b"),
        "no config 'default'; it has: b, c",
    ),
    "split of card": (
        lambda p: carded(p, SPLIT.format("a", "test.parquet") + SPLIT.format("b", "test.parquet")),
        "no split 'test' of 'default'; it has: a, b",
    ),
    "files of card": (lambda p: carded(p, SPLIT.format("test", "none-*")), "lacks the files of split 'test': none-"),
    "way out": (lambda p: carded(p, SPLIT.format("test", "../test.parquet")), "test.parquet leads out of the folder"),
    "address": (lambda p: carded(p, SPLIT.format("test", "https://x/y")), "https://x/y leads out of the folder"),
    "head of card": (lambda p: carded(p, "  - split: [\n"), "README.md: configs in its head cannot be read: "),
    "single file of another split": (
        lambda p: put(p / "train-00000-of-00001.parquet", problems()), "parquet is not of split 'test', as its name s",
    ),
    "alone, of another split": (
        lambda p: put(p / "validation-1.parquet", problems()).parent, "has validation-1.parquet: expected files of con",
    ),
    "folder's name against the files'": (
        lambda p: (put(p / "test" / "dev.parquet", problems()), put(p / "test" / "train.parquet", []))[0].parent,
        "has dev.parquet, train.parquet: expected files of config 'default', split 'test'",
    ),
    "copy": (
        lambda p: (put(p / "test-1.parquet", problems()), put(p / "test-2.parquet", problems()))[0].parent,
        "test-2.parquet is a copy of .*test-1.parquet: one of them must go",
    ),
    "long path": (lambda p: p / ("a" * 300), r"aaa\.\.\. is no path: File name too long"),
    "nobody's home": (lambda p: Path("~nobody-at-all/x"), "~nobody-at-all/x is no path: "),
    "zero byte": (lambda p: p / "a\0b", "is no path: "),
    "pattern: empty": (lambda p: carded(p, SPLIT.format("test", "")), "cannot be read: '' is no pattern of files"),
    "pattern: .": (lambda p: carded(p, SPLIT.format("test", ".")), "cannot be read: '.' is no pattern of files"),
    "pattern: **x": (lambda p: carded(p, SPLIT.format("test", "test**")), r"read: 'test\*\*' is no pattern of files"),
    "pattern: a number": (lambda p: carded(p, "  - split: test\n    path: 5\n"), "README.md: configs in its head cann"),
    "config: a number": (
        lambda p: carded(p, SPLIT.format("test", "x") + "- config_name: 2\n  data_files: y\n", "1"), "it has: 1, 2",
    ),
    "split: a number": (
        lambda p: carded(p, SPLIT.format("1", "x") + SPLIT.format("2", "x")), "'test' of 'default'; it has: 1, 2",
    ),
    "two kinds of columns": (
        lambda p: (put(p / "test-1.parquet", problems()), put(p / "test-2.parquet", problems(more=1, id=7)))[0].parent,
        "its files have different columns: ",
    ),
    "json": (lambda p: broken(p / "test.jsonl"), "test.jsonl cannot be read: "),
}  # fmt: skip


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_one_line(tmp_path: Path, case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        logicvista(make(tmp_path)).content_hash()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800


@pytest.mark.usefixtures("no_network")
def test_each_split_is_told_by_the_names_of_its_files(tmp_path: Path) -> None:
    """The folder is named as the configuration is, which says nothing about splits."""
    rules = {"rule": "scienceqa.llava", "lenient": "letter.lenient", "prompt": "q"}
    picture = {"bytes": png(1), "path": None}
    splits = {"train": ["a", "b"], "validation": ["c", "d"], "test": ["e", "f"]}
    for split, choices in splits.items():
        row = {"image": picture, "question": "q", "choices": choices, "answer": 1, "hint": "", "subject": "s"}
        put(tmp_path / "ScienceQA-IMG" / f"{split}-00000-of-00001.parquet", [row])
    for version, split in (("img", "test"), ("img_val", "validation")):
        for folder in (tmp_path, tmp_path / "ScienceQA-IMG"):
            items = Table(set="scienceqa", version=version, data=str(folder), **rules).items()  # type: ignore[arg-type]
            assert [item.meta["options"] for item in items] == [splits[split]]


@pytest.mark.usefixtures("no_network")
def test_each_file_counts_once_and_hidden_ones_never(tmp_path: Path) -> None:
    for hidden in (".ipynb_checkpoints", "__MACOSX", "x/.cache"):
        put(tmp_path / hidden / "test.parquet", problems(5))
    put(tmp_path / "._test.parquet", problems(5))
    put(tmp_path / "test.parquet", problems())
    assert ids(tmp_path) == ["v0", "v1", "v2"]
    files = '  - split: test\n    path: ["test.*", "*.parquet", "**/*.parquet"]\n'
    (tmp_path / "README.md").write_text(CARD.format(config="default", files=files))
    assert ids(tmp_path) == ["v0", "v1", "v2"]


@pytest.mark.usefixtures("no_network")
def test_an_empty_path_is_not_this_folder() -> None:
    with pytest.raises(DataError, match="an empty path does not exist"):
        Table(set="pope", data="", rule="pope.lmms", lenient="yesno.lenient").items()[0]


@pytest.mark.usefixtures("no_network")
def test_numbers_are_taken_as_text(tmp_path: Path) -> None:
    rows = [{**row, "id": i} for i, row in enumerate(problems())]
    assert ids(put(tmp_path / "test.parquet", rows)) == ["0", "1", "2"]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, no_network: None) -> Iterator[None]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    data._unreachable.cache_clear()
    yield
    data._unreachable.cache_clear()


@pytest.mark.usefixtures("offline")
def test_offline_without_data() -> None:
    with pytest.raises(DataError) as caught:
        logicvista(None).items()[0]
    assert str(caught.value) == (
        "logicvista needs lscpku/LogicVista from the hub, which cannot be reached (HF_HUB_OFFLINE=1): "
        "give benchmark.data=/local/path"
    )


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(data, "getproxies", dict)
    data._unreachable.cache_clear()
    with pytest.raises(DataError, match=r"cannot be reached \(no connection\): give benchmark.data="):
        logicvista(None).items()[0]
    data._unreachable.cache_clear()


@pytest.mark.parametrize(
    ("endpoint", "proxies", "asked"),
    [
        ("http://hub.example", {"no": "x"}, [("hub.example", 80)]),
        ("https://hub.example", {"ftp": "http://p"}, [("hub.example", 443)]),
        ("http://hub.example:81", {}, [("hub.example", 81)]),
        ("https://hub.example", {"https": "http://p"}, []),
        ("https://hub.example", {"all": "http://p"}, []),
    ],
)
def test_where_the_hub_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, proxies: dict[str, str], asked: list[tuple[str, int]]
) -> None:
    from huggingface_hub import constants

    tried: list[tuple[str, int]] = []

    def refuse(address: tuple[str, int], **kwargs: Any) -> None:
        tried.append(address)
        raise OSError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(data, "getproxies", lambda: proxies)
    data._unreachable.cache_clear()
    assert data._unreachable() == ("no connection" if asked else None) and tried == asked
    data._unreachable.cache_clear()


@pytest.mark.usefixtures("offline")
def test_the_cache_of_the_hub_serves_offline(own_caches: Path) -> None:
    """As huggingface_hub keeps it; a split that was not fetched completely is refused."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = own_caches / "hub" / "datasets--lscpku--LogicVista"
    snapshot = repository / "snapshots" / commit
    put(snapshot / "data" / "test-00000-of-00001.parquet", problems())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    files = SPLIT.format("test", "data/test-*")
    (snapshot / "README.md").write_text(CARD.format(config="default", files=files))
    table = logicvista(None)
    assert [item.id for item in table.items()] == ["v0", "v1", "v2"]
    assert table.data_id() == {"hub": "lscpku/LogicVista", "revision": "main", "commit": commit}
    (snapshot / "data" / "test-00000-of-00001.parquet").rename(snapshot / "data" / "test-00000-of-00002.parquet")
    with pytest.raises(DataError, match="which cannot be reached"):
        logicvista(None).items()[0]
