"""A slow Qwen3-VL, written from its formulas with torch alone: the judge of the engine.

Weights come from `model.state_dict()`, sizes from `model.config`; no module of the model is ever called. Attention
matrices are full and their masks explicit, nothing is cached, and pruning hides tokens instead of removing rows, so
that an engine which gathers rows and keeps a cache can only agree by being right. One sample, no padding, no video.

    ref = Reference(model)
    prompt = ref.prompt(input_ids, pixel_values, grid_thw)
    result = ref.run(prompt, generated=[5, 9], rule=FastV(layer=2, keep=[20]))
    result.logits  # [3, vocab]: after the prompt, after token 5, after token 9
    result.kept    # for each picture, the tokens that remain
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int, int]  # frames (always 1 here), patch rows, patch columns of a picture, before merging


Kept = Sequence[Sequence[int]]  # for each picture, the tokens that exist, counted within the picture


@dataclass(frozen=True)
class Masks:
    """From each listed layer on, until the next listed one, only these visual tokens exist. Masks({0: kept}) prunes
    before the language model. A token that has gone has no hidden state any more, so it cannot come back."""

    kept: dict[int, Kept]


@dataclass(frozen=True)
class FastV:
    """From `layer` on each picture has only its `keep[picture]` tokens that the last prompt token looked at most."""

    layer: int
    keep: Sequence[int]


@dataclass(frozen=True)
class Prompt:
    ids: list[int]
    embeds: Tensor  # [n, d], visual rows already in place
    positions: Tensor  # [3, n] M-RoPE ids: time, row, column
    pictures: list[list[int]]  # sequence index of every visual token, by picture
    deepstack: list[Tensor]  # J x [visual tokens, d]


@dataclass(frozen=True)
class Result:
    logits: Tensor  # [1 + len(generated), vocab]
    kept: Kept  # what exists in the last layer, ascending
    scores: list[Tensor]  # FastV: for each picture, the attention that ranked its tokens (else empty)
    hidden: list[Tensor]  # depth + 1 states [n + len(generated), d]: entering each layer (before pruning), and the last


class Reference:
    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        self.config, self.dtype = model.config, dtype
        self.weights: dict[str, Tensor] = {k: v.to("cpu", dtype) for k, v in model.state_dict().items()}
        text, vision = self.config.text_config, self.config.vision_config
        assert text.hidden_act == "silu" and vision.hidden_act == "gelu_pytorch_tanh", "other activations"
        assert text.rope_parameters.get("rope_type", "default") == "default", "scaled RoPE"

    def linear(self, name: str, x: Tensor) -> Tensor:
        y, bias = x @ self.weights[name + ".weight"].T, self.weights.get(name + ".bias")
        return y if bias is None else y + bias

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return unit * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def rms_norm(self, name: str, x: Tensor) -> Tensor:
        eps: float = self.config.text_config.rms_norm_eps
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * self.weights[name + ".weight"]

    def frequencies(self, dim: int, theta: float) -> Tensor:
        """[dim / 2]: theta ** (-2 i / dim)."""
        return torch.tensor(theta, dtype=self.dtype).pow(-torch.arange(0, dim, 2) / dim)

    def picture_positions(self, rows: Tensor, cols: Tensor, h: int, w: int) -> Tensor:
        """The square table of learned positions, stretched bilinearly over h x w with its corners on the corners."""
        table = self.weights["model.visual.pos_embed.weight"]
        side = int(len(table) ** 0.5)

        def stretch(n: int) -> Tensor:  # [n, side]: how much of each table line a line of the picture takes
            at = torch.arange(n, dtype=self.dtype) * (side - 1) / max(n - 1, 1)
            return (1 - (at[:, None] - torch.arange(side, dtype=self.dtype)).abs()).clamp(min=0)

        grid = torch.einsum("hi,wj,ijd->hwd", stretch(h), stretch(w), table.view(side, side, -1))
        return grid[rows, cols]

    def merger(self, name: str, x: Tensor, norm_after_grouping: bool) -> Tensor:
        """[patches, d] -> [patches / merge ** 2, d_lm]. The DeepStack mergers normalise after grouping."""
        wide = x.shape[1] * self.config.vision_config.spatial_merge_size**2
        x = x.reshape(-1, wide) if norm_after_grouping else x
        x = self.layer_norm(name + ".norm", x).reshape(-1, wide)
        return self.linear(name + ".linear_fc2", F.gelu(self.linear(name + ".linear_fc1", x)))

    def picture(self, pixels: Tensor, grid: Grid) -> tuple[Tensor, list[Tensor]]:
        """One picture [patches, values] -> visual tokens [N, d_lm] and the DeepStack rows of the listed layers."""
        vision = self.config.vision_config
        frames, h, w = grid
        assert frames == 1, "pictures only"
        rows, cols = merge_order(h, w, vision.spatial_merge_size)
        kernel = self.weights["model.visual.patch_embed.proj.weight"]  # a convolution whose stride is its size
        x = pixels.to(self.dtype) @ kernel.flatten(1).T + self.weights["model.visual.patch_embed.proj.bias"]
        x = x + self.picture_positions(rows, cols, h, w)

        # Half of a head's frequencies turn with the row, half with the column.
        theta = (getattr(vision, "rope_parameters", None) or {}).get("rope_theta", 10000.0)
        freqs = self.frequencies(vision.hidden_size // vision.num_heads // 2, theta)
        angles = torch.cat([rows[:, None] * freqs, cols[:, None] * freqs], dim=1)

        deepstack: list[Tensor] = []
        everything = torch.ones(len(x), len(x), dtype=torch.bool)
        for i in range(vision.depth):
            name = f"model.visual.blocks.{i}"
            q, k, v = self.linear(name + ".attn.qkv", self.layer_norm(name + ".norm1", x)).chunk(3, dim=-1)
            q, k, v = (split_heads(t, vision.num_heads) for t in (q, k, v))
            out, _ = attend(rotate(q, angles), rotate(k, angles), v, everything)
            x = x + self.linear(name + ".attn.proj", out)
            y = self.linear(name + ".mlp.linear_fc1", self.layer_norm(name + ".norm2", x))
            x = x + self.linear(name + ".mlp.linear_fc2", F.gelu(y, approximate="tanh"))
            if i in vision.deepstack_visual_indexes:
                deepstack.append(self.merger(f"model.visual.deepstack_merger_list.{len(deepstack)}", x, True))
        return self.merger("model.visual.merger", x, False), deepstack

    def prompt(self, ids: Sequence[int], pixel_values: Tensor | None = None, grid_thw: Sequence[Grid] = ()) -> Prompt:
        """`ids` hold one picture token per visual token; `pixel_values` the patches of all pictures."""
        merge = self.config.vision_config.spatial_merge_size
        visual = [i for i, token in enumerate(ids) if token == self.config.image_token_id]
        rest = iter(visual)
        pictures = [[next(rest) for _ in range(h * w // merge**2)] for _, h, w in grid_thw]
        assert not list(rest), "more picture tokens than the pictures fill"
        embeds = self.weights["model.language_model.embed_tokens.weight"][list(ids)]  # a copy
        deepstack: list[Tensor] = []
        if pixel_values is not None and pictures:
            patches = torch.split(pixel_values, [h * w for _, h, w in grid_thw])
            features = [self.picture(p, g) for p, g in zip(patches, grid_thw, strict=True)]
            embeds[visual] = torch.cat([tokens for tokens, _ in features])
            deepstack = [torch.cat(layer) for layer in zip(*(rows for _, rows in features), strict=True)]
        return Prompt(list(ids), embeds, self.mrope(ids, grid_thw), pictures, deepstack)

    def mrope(self, ids: Sequence[int], grid_thw: Sequence[Grid]) -> Tensor:
        """Text counts up on all three axes; a picture stands at one time and uses up as many ids as its longer side."""
        merge, grids = self.config.vision_config.spatial_merge_size, iter(grid_thw)
        out, now = list[tuple[int, int, int]](), 0
        while len(out) < len(ids):
            if ids[len(out)] != self.config.image_token_id:
                out.append((now, now, now))
                now += 1
            else:
                _, h, w = next(grids)
                out += [(now, now + row, now + col) for row in range(h // merge) for col in range(w // merge)]
                now += max(h, w) // merge
        return torch.tensor(out).T

    def text_angles(self, positions: Tensor) -> Tensor:
        """[n, head_dim / 2]: frequencies take time, row, column in turn; when an axis is used up, time again."""
        text = self.config.text_config
        freqs = self.frequencies(text.head_dim, text.rope_parameters["rope_theta"])
        sections = text.rope_parameters["mrope_section"]
        axis = [i % 3 if i < 3 * sections[i % 3] else 0 for i in range(len(freqs))]
        return positions[axis].T * freqs

    def attention(self, name: str, x: Tensor, angles: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        text = self.config.text_config
        heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
        q = self.rms_norm(name + ".q_norm", split_heads(self.linear(name + ".q_proj", x), heads))
        k = self.rms_norm(name + ".k_norm", split_heads(self.linear(name + ".k_proj", x), kv_heads))
        v = split_heads(self.linear(name + ".v_proj", x), kv_heads)
        k, v = (t.repeat_interleave(heads // kv_heads, dim=0) for t in (rotate(k, angles), v))
        out, weights = attend(rotate(q, angles), k, v, mask)
        return self.linear(name + ".o_proj", out), weights

    def run(self, prompt: Prompt, generated: Sequence[int] = (), rule: Masks | FastV | None = None) -> Result:
        """Logits after the prompt and after each generated token; the whole sequence is computed anew.

        Position ids and DeepStack rows of what is kept are those of the unpruned prompt."""
        depth, n = self.config.text_config.num_hidden_layers, len(prompt.ids)
        visual = [at for picture in prompt.pictures for at in picture]
        # A generated token follows the highest id of the whole prompt, whatever was pruned.
        after = prompt.positions.max() + 1 + torch.arange(len(generated)).expand(3, -1)
        angles = self.text_angles(torch.cat([prompt.positions, after], dim=1))
        embedding = self.weights["model.language_model.embed_tokens.weight"]
        x = torch.cat([prompt.embeds, embedding[list(generated)]])
        causal, own = torch.ones(len(x), len(x), dtype=torch.bool).tril(), torch.eye(len(x), dtype=torch.bool)
        assert not isinstance(rule, FastV) or 0 < rule.layer < depth, "FastV needs a layer before and one to prune"

        exists, attention = torch.ones(len(x), dtype=torch.bool), torch.empty(0)
        kept: Kept = [range(len(picture)) for picture in prompt.pictures]
        scores, hidden = list[Tensor](), list[Tensor]()
        for i in range(depth):
            hidden.append(x)
            if isinstance(rule, FastV) and i == rule.layer:  # `attention` is still that of layer i - 1
                row = attention.mean(0)[n - 1]  # head mean of the last prompt token, softmax over its full causal row
                scores = [row[picture] for picture in prompt.pictures]
                kept = [top(s, k) for s, k in zip(scores, rule.keep, strict=True)]
            elif isinstance(rule, Masks):
                kept = rule.kept.get(i, kept)
            stays = torch.ones_like(exists)
            stays[visual] = False
            stays[[picture[j] for picture, js in zip(prompt.pictures, kept, strict=True) for j in js]] = True
            assert not bool((stays & ~exists).any()), "a token that has gone cannot return"
            exists = stays

            # What has gone is nobody's key, and its own row is dead: zeroed, looking at nothing but itself.
            x = x * exists[:, None]
            name, mask = f"model.language_model.layers.{i}", (causal & exists & exists[:, None]) | own
            y = self.rms_norm(name + ".input_layernorm", x)
            y, attention = self.attention(name + ".self_attn", y, angles, mask)
            x = x + y
            y = self.rms_norm(name + ".post_attention_layernorm", x)
            y = F.silu(self.linear(name + ".mlp.gate_proj", y)) * self.linear(name + ".mlp.up_proj", y)
            x = x + self.linear(name + ".mlp.down_proj", y)
            if i < len(prompt.deepstack):
                x[visual] += prompt.deepstack[i] * exists[visual, None]
        hidden.append(x)

        head = embedding if self.config.tie_word_embeddings else self.weights["lm_head.weight"]
        logits = self.rms_norm("model.language_model.norm", x[n - 1 :]) @ head.T
        return Result(logits, [sorted(js) for js in kept], scores, hidden)

    def greedy(self, prompt: Prompt, steps: int, rule: Masks | FastV | None = None) -> list[int]:
        """`steps` tokens, each the most likely after all before it; never stops early."""
        tokens: list[int] = []
        for _ in range(steps):
            tokens.append(int(self.run(prompt, tokens, rule).logits[-1].argmax()))
        return tokens


def merge_order(h: int, w: int, merge: int) -> tuple[Tensor, Tensor]:
    """Row and column of each patch in the order of the processor: merge x merge blocks, row by row, patches within."""
    inner = [(r, c) for r in range(merge) for c in range(merge)]
    order = [(R + r, C + c) for R in range(0, h, merge) for C in range(0, w, merge) for r, c in inner]
    rows, cols = torch.tensor(order).unbind(1)
    return rows, cols


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[n, heads * d] -> [heads, n, d]."""
    return x.view(len(x), heads, -1).transpose(0, 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs (i, i + d / 2) of [heads, n, d] by angles [n, d / 2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """[heads, n, d] each, mask [query, key] -> outputs [n, heads * d] and the attention [heads, n, n]."""
    logits = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(~mask, float("-inf"))
    weights = logits.softmax(-1)
    return (weights @ v).transpose(0, 1).flatten(1), weights


def top(scores: Tensor, k: int) -> list[int]:
    """The k highest, equal ones in favour of the lower index."""
    return sorted(range(len(scores)), key=lambda j: (-float(scores[j]), j))[:k]
