"""lmms-eval with our engine: the replies of our own runs, what model_args may say, what happens to bad samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from lmms_eval.api.instance import Instance
from loguru import logger
from PIL import Image
from pyarrow import parquet

from harness.benchmarks.lmms_prompts import find
from harness.engine import Decoding, Engine, Request
from harness.lmms_plugin import VTPBench, configure
from harness.runs.backend import TorchBackend
from harness.runs.cells import Resolver
from harness.runs.compose import Configs, compose_all
from harness.runs.errors import InputError
from harness.runs.log import read_log
from harness.runs.run import run_cells
from pruners.fastv import FastV
from tests.conftest import tiny

ROOT = Path(__file__).parents[1]
REALDATA = Path(os.environ.get("REALDATA_DIR") or ROOT.parent / "shared" / "realdata")
SHARED = {
    "model": "tiny_qwen3_vl", "model.weights": "random", "model.max_pixels": "16384", "executor.gpus": "none",
    "keep": "1/3",
}  # fmt: skip
"""Of both commands; random weights answer differently to different prompts."""


# lmms-eval's own run


def local(name: str, folder: str, rows: slice, to: Path) -> Path:
    """Some rows of a real sample as a file of their own, those with most pictures first."""
    files = sorted((REALDATA / folder).glob("*.parquet"))
    if not files:
        pytest.skip(f"no real sample at {REALDATA / folder} (REALDATA_DIR)")
    table = parquet.read_table(files[0])
    pictures = [c for c in table.column_names if c.startswith("image_") and c != "image_path"]
    filled = [sum(table[c][i].as_py() is not None for c in pictures) for i in range(len(table))]
    order = sorted(range(len(table)), key=lambda i: -filled[i])
    to.mkdir()
    parquet.write_table(table.take(order[rows]), to / "test.parquet")
    return to / "test.parquet"


def lmms_run(sets: dict[str, tuple[str, Path]], arguments: dict[str, str], folder: Path) -> dict[str, list[Any]]:
    """Replies of `python -m lmms_eval` and lines of `traces=`, both by set and in the order of the data."""
    for name, (task, data) in sets.items():
        local_task = {
            "include": str(find(task)), "task": f"local_{name}", "dataset_path": "parquet", "dataset_name": None,
            "dataset_kwargs": {"data_files": {"test": str(data)}},
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(local_task))
    # lmms-eval, too, needs a torchvision that does not fit torch hidden
    code = "import harness.compat, runpy; runpy.run_module('lmms_eval', run_name='__main__', alter_sys=True)"
    model_args = ",".join(f"{k}={v}" for k, v in {**arguments, "traces": str(folder / "traces.jsonl")}.items())
    command = [
        sys.executable, "-c", code, "--model", "vtpbench", "--model_args", model_args, "--include_path", str(folder),
        "--tasks", ",".join(f"local_{name}" for name in sets), "--gen_kwargs", "max_new_tokens=6",
        "--log_samples", "--output_path", str(folder / "out"), "--process_docs_parallel", "1",
    ]  # fmt: skip
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=offline, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Error during evaluation" not in done.stdout + done.stderr, (
        done.stdout + done.stderr
    )
    traces = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    found: dict[str, list[Any]] = {}
    for name in sets:
        (file,) = folder.glob(f"out/tiny_qwen3_vl/*_samples_local_{name}.jsonl")
        samples = sorted(map(json.loads, file.read_text().splitlines()), key=lambda s: s["doc_id"])
        measured = {t["doc_id"]: t for t in traces if t["task"] == f"local_{name}"}
        assert sorted(measured) == [s["doc_id"] for s in samples]
        found[name] = [(s.get("resps", s["filtered_resps"]), measured[s["doc_id"]], s) for s in samples]
    return found


def own_run(name: str, data: Path, arguments: dict[str, str], folder: Path) -> list[Any]:
    """Records of `vtpbench run protocol=lmms_eval`, in the order of the data."""
    more = {"benchmark": name, "benchmark.data": str(data), "protocol": "lmms_eval", "protocol.max_new_tokens": "6",
            "paths.results": str(folder)}  # fmt: skip
    texts = [f"{key}={value}" for key, value in {**arguments, **more}.items()]
    (cell,) = Resolver(TorchBackend()).plan(compose_all(texts, Configs.find())).cells
    (outcome,) = run_cells([cell], TorchBackend())
    assert not outcome.failed
    records = read_log(cell.folder)
    return [records[item.id, 0] for item in cell.benchmark.items()]


def compare(sets: dict[str, tuple[str, Path]], arguments: dict[str, str], folder: Path) -> None:
    theirs = lmms_run(sets, arguments, folder)
    for name, (_, data) in sets.items():
        ours = own_run(name, data, arguments, folder)
        assert [reply for reply, _, _ in theirs[name]] == [record["text"] for record in ours]
        for (_, trace, sample), record in zip(theirs[name], ours, strict=True):
            for key in ("token_ids", "text_tokens", "visual_tokens", "visual_per_layer", "flops", "finish"):
                assert trace[key] == record[key], key
            counts = {"input_tokens": record["text_tokens"] + record["visual_tokens"],
                      "output_tokens": len(record["token_ids"]), "reasoning_tokens": 0}  # fmt: skip
            assert sample["token_counts"] == [counts]


def test_lmms_eval_gives_the_answers_of_our_own_run(tmp_path: Path) -> None:
    """Several pictures and the prompt of qwen3_vl instead of the default one; two system texts."""
    standard = local("mmmu_pro_standard", "mmmu_pro/standard (10 options)", slice(3), tmp_path / "a")
    dynamath = local("dynamath", "dynamath_lmms", slice(0, 50, 17), tmp_path / "b")
    sets = {"mmmu_pro_standard": ("mmmu_pro_standard", standard), "dynamath": ("dynamath_reasoning", dynamath)}
    compare(sets, {**SHARED, "pruner": "fastv", "pruner.layer": "1"}, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", [{"pruner": "divprune"}, {"pruner": "fastv", "addon": "dstp"}], ids=str)
def test_whole_samples_give_the_same_answers(method: dict[str, str], tmp_path: Path) -> None:
    tasks = {
        "mmmu_pro_standard": ("mmmu_pro_standard", "mmmu_pro/standard (10 options)"),
        "mmmu_pro_vision": ("mmmu_pro_vision", "mmmu_pro/vision"),
        "scienceqa": ("scienceqa_img", "scienceqa"),
        "dynamath": ("dynamath_reasoning", "dynamath_lmms"),
    }
    sets = {name: (task, local(name, folder, slice(None), tmp_path / name)) for name, (task, folder) in tasks.items()}
    compare(sets, SHARED | method, tmp_path)


# the object alone


def model(**more: Any) -> VTPBench:
    return VTPBench(**{"model": "tiny_qwen3_vl", "executor.gpus": "none", "pruner": "fastv", "keep": 0.5} | more)


def picture(size: int = 64) -> Image.Image:
    return Image.effect_noise((size, size), 60).convert("RGB")


def turn(*parts: str | Image.Image, role: str = "user") -> dict[str, Any]:
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "url": p} for p in parts]
    return {"role": role, "content": content}


def ask(lm: VTPBench, docs: list[list[dict[str, Any]]], **generation: Any) -> list[Any]:
    """One request per document, whose messages it is; the generation parameters may be a list, one for each."""
    lm.task_dict["t"] = {"test": docs}
    each = generation.pop("each", [generation] * len(docs))
    return lm.generate_until([
        Instance("generate_until", ("", lambda doc: doc, kwargs, i, "t", "test"), 0,
                 {"task": "t", "doc_id": i, "repeats": 1})
        for i, kwargs in enumerate(each)
    ])  # fmt: skip


def test_replies_are_those_of_the_engine_in_the_order_of_the_requests() -> None:
    asked = [(f"Question {i}?", picture(64 + 32 * i)) for i in range(4)]
    limits = [3, 5, 3, 4]
    docs = [[turn("Be brief.", role="system"), turn(shown, text)] for text, shown in asked]
    found = ask(model(), docs, each=[{"max_new_tokens": n, "until": ["\n\n", "up"]} for n in limits])
    for (text, shown), n, result in zip(asked, limits, found, strict=True):
        request = Request("x", (shown, text), ("You are a helpful assistant.", "Be brief."))
        (trace,) = Engine(tiny("trained")).run([request], FastV(keep=0.5), Decoding(max_new_tokens=n))
        assert result.text == trace.text and result.token_counts.output_tokens == trace.new_tokens <= n
        assert result.token_counts.input_tokens == trace.text_tokens + trace.visual_tokens


def test_a_sample_that_fails_is_empty_and_named(tmp_path: Path) -> None:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), level="WARNING")
    try:
        (tmp_path / "damaged.png").write_bytes(b"no picture")
        lm = model(traces=str(tmp_path / "deep" / "traces.jsonl"))
        damaged = [{"role": "user", "content": [{"type": "image", "url": str(tmp_path / "damaged.png")}]}]
        good = [turn(picture(), "how many pips at c3?")]
        found = ask(lm, [good, damaged, good], max_new_tokens=4)
    finally:
        logger.remove(sink)
    assert found[1].text == "" and found[0].text == found[2].text != ""
    assert [line for line in lines if "t/1 failed" in line and "unreadable picture" in line]
    traces = [json.loads(line) for line in (tmp_path / "deep" / "traces.jsonl").read_text().splitlines()]
    assert {(t["doc_id"], t["finish"] == "error") for t in traces} == {(0, False), (1, True), (2, False)}
    assert all(t["ret_prefill"] < 1 for t in traces if t["finish"] != "error")


def test_documents_that_cannot_be_read_and_what_is_no_picture() -> None:
    lm, good = model(), [turn(picture(), "how many pips at c3?")]
    lm.task_dict["t"] = {"test": [good, good]}

    def messages(doc: list[Any]) -> list[Any]:
        raise OSError("truncated")

    requests = [
        Instance("generate_until", ("", made, {"max_new_tokens": 2}, i, "t", "test"), 0,
                 {"task": "t", "doc_id": i, "repeats": 1})
        for i, made in enumerate([messages, lambda doc: doc])
    ]  # fmt: skip
    assert [bool(result.text) for result in lm.generate_until(requests)] == [False, True]
    with pytest.raises(NotImplementedError, match="no video of the user"):
        ask(lm, [[{"role": "user", "content": [{"type": "video", "url": "x.mp4"}]}]])
    with pytest.raises(NotImplementedError, match="no text of the assistant"):
        ask(lm, [[turn("A", role="assistant")]])
    for refuse in (lm.loglikelihood, lm.generate_until_multi_round):
        with pytest.raises(NotImplementedError, match="vtpbench"):
            refuse([])


def test_models_are_shared_and_outlive_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    original = TorchBackend.engine

    def counted(self: TorchBackend, *arguments: Any) -> Any:
        loads.append(arguments[0].name)
        return original(self, *arguments)

    monkeypatch.setattr(TorchBackend, "engine", counted)
    docs = [[turn(picture(), "What?")]]
    first = model(**{"engine.slots": 3})  # a configuration of its own
    before = ask(first, docs, max_new_tokens=4)
    first.clean()
    assert ask(first, docs, max_new_tokens=4) == before
    ask(model(pruner="stride", **{"engine.slots": 3}), docs, max_new_tokens=4)
    assert loads == ["tiny_qwen3_vl"]
    ask(model(**{"engine.slots": 2}), docs, max_new_tokens=4)
    assert len(loads) == 2


def test_generation_parameters_are_read_as_the_adapters_do() -> None:
    lm = model(seed=5)
    assert lm._decoding({"until": ["\n\n"], "do_sample": True}) == Decoding(max_new_tokens=128)
    assert lm._decoding({"max_new_tokens": 7, "temperature": 0, "top_p": 0}) == Decoding(max_new_tokens=7)
    sampled = {"temperature": 0.2, "top_p": None, "do_sample": False, "num_beams": 1}  # as mmvet has it
    assert lm._decoding(sampled) == Decoding(max_new_tokens=128, temperature=0.2, seed=5)
    off = {"temperature": "0.7", "top_p": -1, "top_k": -1, "max_new_tokens": "6"}  # as vLLM has them off
    assert lm._decoding(off) == Decoding(max_new_tokens=6, temperature=0.7, seed=5)
    assert lm._decoding(off | {"top_p": "0"}) == lm._decoding(off | {"top_p": 1.0, "top_k": 0})
    filters = {"temperature": 1, "top_p": "0.9", "top_k": 20.0, "seed": 9}
    assert lm._decoding(filters) == Decoding(max_new_tokens=128, temperature=1, top_p=0.9, top_k=20, seed=9)
    penalties = {"repetition_penalty": 1.1, "presence_penalty": "0.5"}
    assert lm._decoding(penalties) == Decoding(max_new_tokens=128, repetition_penalty=1.1, presence_penalty=0.5)
    assert lm._decoding({"stop": "Q:"}).stop == ("Q:",) and lm._decoding({"stop": ["a", "b"]}).stop == ("a", "b")
    assert lm._decoding(dict.fromkeys(["max_new_tokens", "temperature", "num_beams", "stop", "x"])) == lm._decoding({})


@pytest.mark.parametrize(
    ("generation", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be a whole number of at least 1"),
        ({"max_new_tokens": -3}, "max_new_tokens=-3"),
        ({"max_new_tokens": 7.5}, "max_new_tokens=7.5"),
        ({"max_new_tokens": True}, "max_new_tokens=True"),
        ({"max_new_tokens": "many"}, "max_new_tokens=many"),
        ({"temperature": "warm"}, "temperature=warm must be a number"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": [1]}, r"temperature=\[1\]"),
        ({"temperature": 1, "top_p": 1.5}, "top_p=1.5 must be"),
        ({"temperature": 1, "top_k": 0.5}, "top_k=0.5 must be a whole number"),
        ({"top_k": float("inf")}, "top_k=inf"),
        ({"repetition_penalty": 0}, "repetition_penalty=0 must be a number above 0"),
        ({"num_beams": 4}, "num_beams=4 must be 1: vtpbench has no beam search"),
        ({"stop": [""]}, "stop="),
        ({"stop": 5}, "stop=5 must be a text"),
    ],
    ids=str,
)
def test_generation_parameters_that_cannot_be(generation: dict[str, Any], says: str) -> None:
    """All of them are read before the first reply is made."""
    with pytest.raises(InputError, match=says) as error:
        ask(model(), [[turn("What?")]] * 2, each=[{"max_new_tokens": 1}, generation])
    assert "gen_kwargs" in str(error.value) and "\n" not in str(error.value)


def test_what_is_ignored_is_said_once() -> None:
    lines: list[str] = []
    lm = model()
    sink = logger.add(lambda message: lines.append(str(message)), level="WARNING")
    try:
        for _ in range(2):
            lm._decoding({"until": ["\n\n"], "do_sample": False, "length_penalty": 2, "image_aspect_ratio": "original"})
            lm._decoding({"temperature": 0.2, "do_sample": False})
    finally:
        logger.remove(sink)
    assert len(lines) == 3
    for what in ("length_penalty is ignored", "image_aspect_ratio is ignored", "do_sample=False gives way"):
        assert [line for line in lines if what in line]


@pytest.mark.parametrize(
    ("name", "adapter", "longest", "system"),
    [
        ("qwen3_vl_4b", "qwen3_vl", 128, "You are a helpful assistant."),
        ("internvl3_5_4b", "internvl_hf", 1024, None),
        ("llava_1_5_7b", "llava", 1024, None),
    ],
)
def test_each_family_stands_for_its_adapter(name: str, adapter: str, longest: int, system: str | None) -> None:
    config = configure({"model": name, "keep": 0.1})
    assert config.benchmark.params["lmms_model"] == adapter and config.keep == 0.1
    assert config.protocol.max_new_tokens == longest and config.protocol.system == system
    assert configure({"model": name, "benchmark.lmms_model": "default"}).benchmark.params["lmms_model"] == "default"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("model=tiny_qwen3_vl,pruner=fastv,keep=0.1,0.2", "one value"),
        ("model=tiny_qwen3_vl,pruner=glob(*)", r"span \d+ cells"),
        ("pretrained=tiny_qwen3_vl", "unknown model_args pretrained="),
        ("model=tiny_qwen3_vl,benchmark=pope", "lmms-eval decides the rest"),
        ("model=tiny_qwen3_vl,pruner=fastvv", "unknown pruner 'fastvv'"),
        ("model=tiny_qwen3_vl,pruner=fastv,pruner.layer=99", "layer 99 does not fit"),
        ("model=tiny_qwen3_vl,pruner=none,addon=dstp", "an add-on needs a method"),
        ("model=tiny_qwen3_vl,traces=/dev/null/x", "traces="),
        ("model=tiny_qwen3_vl,benchmark.lmms_model=nonsense", "lmms_model=nonsense: lmms-eval has no such model"),
    ],
)
def test_model_args_that_cannot_be(arguments: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        VTPBench.create_from_arg_string(arguments + ",executor.gpus=none", {"batch_size": 1, "device": None})


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "cpu:x", ""])
def test_devices(device: str) -> None:
    """They are tried when the model is made; lmms-eval gives nothing, or an empty text, where the user names none."""
    if not device:
        assert model(device=device).devices == ("cpu",)
        return
    with pytest.raises(InputError, match=f"device={device} cannot be used: .") as error:
        model(device=device)
    assert "\n" not in str(error.value)


def test_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        model()


def test_entry_point() -> None:
    """It is installed, light, and names a class that lmms-eval accepts."""
    (point,) = entry_points(group="lmms_eval.models", name="vtpbench")
    code = f"import sys, {point.module}; print(*sorted(m for m in sys.modules if m in ('torch', 'lmms_eval', 'hydra')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests()
    assert registry.get_model_class("vtpbench") is VTPBench
