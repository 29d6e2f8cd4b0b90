"""Judges through transformers: a tiny random model behind its chat template, against the library's own generation."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers

from harness.benchmarks.judge import Recorder
from harness.benchmarks.judge.local import HFLocal, fingerprint
from harness.benchmarks.scoring.verdict import JudgeUnavailable
from tests.models.folders import tokenizer
from tests.tiny import text_sizes

TINY_QWEN = Path(__file__).parents[2] / "harness" / "tiny" / "qwen3_vl"


def write(folder: Path, seed: int = 0) -> Path:
    """A random Llama with a byte tokenizer, and a generation config that must not matter."""
    words = tokenizer("internvl")
    sizes = text_sizes(32, 2, 2, 2, 16, 48, len(words))
    config = transformers.LlamaConfig(**sizes, eos_token_id=words.eos_token_id, bos_token_id=None)
    torch.manual_seed(seed)
    net = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        net.lm_head.weight.mul_(8)  # a spread of logits in which sampling and penalties can be seen
    net.generation_config.update(do_sample=True, temperature=1.5, top_p=0.9, repetition_penalty=3.0)
    net.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("judge") / "tiny_llama")


def greedy(folder: Path, prompt: str, count: int) -> list[int]:
    """The most likely tokens, one by one, without a cache."""
    net, words = transformers.LlamaForCausalLM.from_pretrained(folder), tokenizer("internvl")
    ids = list(words(prompt)["input_ids"])
    start = len(ids)
    while len(ids) < start + count and ids[-1] != words.eos_token_id:
        ids.append(int(net(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[start:]


def test_greedy_is_greedy_over_the_chat_template(folder: Path) -> None:
    ask = Recorder(HFLocal(path=str(folder), dtype="float32", device="cpu"))
    text = ask("Is 2 = 2?", system="Be brief.", max_tokens=60)
    prompt = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nIs 2 = 2?<|im_end|>\n<|im_start|>assistant\n"
    ids = greedy(folder, prompt, 60)
    words = tokenizer("internvl")
    assert text == words.decode(ids, skip_special_tokens=True)
    assert ask.exchanges[0]["completion_tokens"] == len(ids)
    assert ask.exchanges[0]["prompt_tokens"] == len(words(prompt)["input_ids"])


def test_sampling_has_a_seed_of_its_own(folder: Path) -> None:
    judge, again = (HFLocal(path=str(folder), dtype="float32", device="cpu") for _ in range(2))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    hot = judge("?", temperature=1.5, max_tokens=12)
    assert torch.rand(1) == expected  # other random numbers go on undisturbed
    assert hot == again("?", temperature=1.5, max_tokens=12)
    assert len({hot, judge("?", temperature=0.5, max_tokens=12), judge("?", max_tokens=12)}) == 3


def test_threads_share_one_model(folder: Path) -> None:
    judge = HFLocal(path=str(folder), dtype="float32", device="cpu")
    prompts = [f"prompt {i % 4}" for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda prompt: judge(prompt, max_tokens=6), prompts))
    alone = HFLocal(path=str(folder), dtype="float32", device="cpu")
    assert replies == [alone(prompt, max_tokens=6) for prompt in prompts]


def test_multimodal_models_can_judge_text() -> None:
    assert HFLocal(path=str(TINY_QWEN), dtype="float32", device="cpu")("Is 2 = 2?", max_tokens=8).strip()


def test_folders_are_known_by_name_and_content(folder: Path, tmp_path: Path) -> None:
    moved, other = write(tmp_path / "a" / "tiny_llama"), write(tmp_path / "b" / "tiny_llama", seed=1)
    (moved / "README.md").write_text("words")
    first, second, third = (HFLocal(path=str(place)).identity for place in (folder, moved, other))
    assert first == second
    assert first["model"] == third["model"] == "tiny_llama"
    assert first["files"] != third["files"]
    assert str(tmp_path) not in json.dumps(third)
    hub = HFLocal(path="somebody/judge", revision="abc", dtype="float16")
    assert hub.identity == {
        "kind": "hf_local", "model": "somebody/judge", "revision": "abc", "dtype": "float16", "files": None,
    }  # fmt: skip


def test_fingerprints_see_changes_inside_large_files(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(10_000_000))
    before = fingerprint(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(4_000_000)
        file.write(b"\x01" * 200_000)
    assert fingerprint(tmp_path) != before


def test_models_that_do_not_load_are_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{")
    judge, tries = HFLocal(path=str(tmp_path)), []
    real = transformers.AutoConfig.from_pretrained
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *a, **k: tries.append(a) or real(*a, **k))
    reasons = set()
    for _ in range(3):
        with pytest.raises(JudgeUnavailable) as failure:
            judge("?")
        reasons.add(str(failure.value))
    assert len(tries) == len(reasons) == 1
    assert str(reasons).count("\\n") == 0


def test_a_model_without_chat_template_says_so(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(JudgeUnavailable, match=r"chat[ _]template"):
        HFLocal(path=str(tmp_path), device="cpu")("?")


def test_prompts_that_a_template_refuses(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system text') }}{% endif %}"
        "{{ messages[0]['content'] }}"
    )
    judge = HFLocal(path=str(tmp_path), device="cpu")
    with pytest.raises(JudgeUnavailable, match="no system text"):
        judge("?", system="Be brief.")
    assert judge("?", max_tokens=4)
