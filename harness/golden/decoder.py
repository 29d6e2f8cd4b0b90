"""End-to-end files: a small stock Llama under the engine, prefill and three decode steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.engine.cache import SlotCache
from harness.engine.decode import Decode
from harness.engine.parts import ignore
from harness.golden.compare import Damaged, Golden, arrays
from harness.golden.scene import Bare, prefill
from harness.models.attention import NAME
from harness.models.decoder import Decoder
from harness.models.sizes import text_dims
from pruners.base import Pruner
from pruners.fastv import FastV
from pruners.none import NoPruning
from pruners.views import ModelInfo

FILE = "E2E_weights.npz"
NAMES = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj", "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
}  # fmt: skip
"""Keys of the weights file, one entry per layer, and what they are in the stock model."""


HEADS = 4
"""Attention heads of the small Llama, where a file does not say."""


def llama(weights: dict[str, Tensor], heads: int = HEADS) -> Any:
    """The stock LlamaModel with these weights, under the engine's attention."""
    from transformers import LlamaConfig, LlamaModel  # only now: harness.compat has to come first

    lacking = [key for key in (*NAMES, "embed", "norm") if key not in weights]
    if lacking:
        raise Damaged(f"{FILE} lacks {', '.join(lacking)}")
    if any(not value.isfinite().all() for value in weights.values()):
        raise Damaged(f"{FILE} holds values that are no numbers")
    if len({len(weights[key]) for key in NAMES}) > 1:
        raise Damaged(f"{FILE} has more layers of one kind than of another")
    vocab, hidden = weights["embed"].shape
    net = LlamaModel(
        LlamaConfig(
            vocab_size=vocab, hidden_size=hidden, num_hidden_layers=len(weights["q"]), num_attention_heads=heads,
            num_key_value_heads=heads, intermediate_size=weights["gate"].shape[1], rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, pad_token_id=None, bos_token_id=None,
            eos_token_id=None,
        )
    )  # fmt: skip
    state = {"embed_tokens.weight": weights["embed"], "norm.weight": weights["norm"]}
    for key, name in NAMES.items():
        state |= {f"layers.{k}.{name}.weight": rows for k, rows in enumerate(weights[key])}
    net.load_state_dict(state)
    net.set_attn_implementation(NAME)
    return net.eval()


class Llama(Decoder, Bare):
    """The model of the end-to-end files. Tokens from the vocabulary's size on are the prompt's rows, in order.

    Its head changes nothing, so that its "logits" are the normed hidden states.
    """

    embed = Bare.embed
    head = Bare.head

    def __init__(self, net: Any, prompt: Tensor) -> None:
        config = net.config
        Bare.__init__(
            self,
            ModelInfo(name="Llama", depth=config.num_hidden_layers, tower_depth=24, has_cls=True, feature_layer=-2),
            torch.cat([net.embed_tokens.weight.detach(), prompt]), **text_dims(config),
        )  # fmt: skip
        self.net = self.text = net


def beside(path: Path) -> dict[str, Tensor]:
    """The weights that belong to a file: in its folder, else in GOLDEN_DIR."""
    folders = [path.parent, *([Path(found)] if (found := os.environ.get("GOLDEN_DIR")) else [])]
    for folder in folders:
        if (folder / FILE).exists():
            return arrays(folder / FILE)
    raise Damaged(f"{FILE} is not beside the file")


def run(golden: Golden, pruner: Pruner, heads: int | None = None, doubled: int | None = None) -> None:
    """Hidden states after prefill and after each decode step, and what the cache holds.

    Args:
        doubled: a layer whose keys and values the official code stores twice, which changes no result.
    """
    rows, start, n = golden["in_embeddings"], golden.number("in_sys"), golden.number("in_image")
    if start + n + golden.number("in_text") != len(rows):
        raise Damaged(f"{start} + {n} + {golden.number('in_text')} tokens are not the {len(rows)} of in_embeddings")
    heads = heads or (golden.number("in_num_heads") if "in_num_heads" in golden.data else HEADS)
    model = Llama(llama(beside(golden.path), heads), rows)
    vocab = len(model.table) - len(rows)
    done = prefill(model, pruner, vocab + torch.arange(len(rows)), start, n)
    cache = SlotCache(model.dims, model.axes, 1, model.device, model.dtype)
    decode = Decode(model, cache, pruner, ignore)
    forced = golden["in_decode_ids"].tolist()
    cache.admit(0, done.cache, len(forced))
    decode.admit(0, done, {})
    after_prefill = cache.lengths[:, 0].tolist()
    hidden = [done.logits]
    for token in forced:
        decode.step.tokens.fill_(token)
        hidden.append(decode.advance([0])[0])
    final = cache.lengths[:, 0].tolist()
    if doubled is not None:
        after_prefill[doubled], final[doubled] = 2 * after_prefill[doubled], 2 * final[doubled]
        golden.notes.append(
            f"the official code stores keys and values of layer {doubled} twice: compared with twice our length"
        )
    golden.close("out_last_hidden", torch.stack(hidden))
    golden.equal("out_kv_len_after_prefill", torch.tensor(after_prefill))
    golden.equal("out_kv_len_final", torch.tensor(final))
    golden.equal("out_seq_len_after_last_layer", torch.tensor(len(done.segment)))


def weights(golden: Golden) -> None:
    """The weights themselves: complete, and of shapes that fit the stock model."""
    llama(golden.data)
    if not (files := sorted(golden.path.parent.glob("E2E_baseline*.npz"))):
        golden.notes.append("values not verified: no E2E_baseline file beside it")
    for file in files:
        unpruned = Golden(file, arrays(file))
        run(unpruned, NoPruning())
        golden.wrong += [f"{file.name}: {line}" for line in unpruned.wrong]


def baseline(golden: Golden) -> None:
    run(golden, NoPruning())


def fastv(golden: Golden) -> None:
    """The version with a cache: `in_r` is the share removed."""
    kept = round(golden.number("in_image") * (1 - golden.ratio("in_r")))
    run(golden, FastV(keep=None, tokens=kept, layer=golden.number("in_layer_K")))


def fastv_lmms(golden: Golden) -> None:
    """The version for lmms-eval: half of the tokens, rounded down."""
    layer = golden.number("in_layer_K")
    run(golden, FastV(keep=None, tokens=int(golden.number("in_image") * 0.5), layer=layer), doubled=layer - 1)
