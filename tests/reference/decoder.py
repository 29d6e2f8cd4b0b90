"""What the slow references of all families share: the text model, the pruning rules and the loop that runs them.

Weights come from `model.state_dict()`, sizes from `model.config`; no module of the model is ever called. Attention
matrices are full and their masks explicit, and pruning hides tokens instead of removing rows, so that an engine which
gathers rows and keeps a cache can only agree by being right. One sample, no padding, no video.

The prompt, and with `Masks` or `FastV` also what follows it, is computed all rows together. Rules that act while
tokens are generated (`VisionPulse`, `DSTP`) make one row after another: pass t = 1, 2, ... feeds generated[t - 1] and
yields logits[t]; logits[0] comes with the prompt. For them `Rows` is a table of every row's keys and values in every
layer, and each query says with a mask over the table what it sees.

In everything that tells of single passes, visual tokens count through all pictures: 0, 1, ..., N_v - 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

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
class VisionPulse:
    """Every generated token sees, from layer `anchor` on, only the visual tokens which its query there likes best.

    How many: the largest share of any head's attention, at temperature `tau`, that falls on visual tokens, held
    between `b_min` and `b_max`, of the visual tokens which `base` left in that layer. All keys and values stay."""

    anchor: int
    tau: float
    b_min: float
    b_max: float
    base: Masks | FastV | None = None


@dataclass(frozen=True)
class DSTP:
    """Tokens that `base` pruned come back for `L` passes when the attention to the kept ones, P, has turned away.

    The attention of layer `m` over P is compared, by its cosine, with that of the last prompt token; below `tau` the
    |P| tokens C are chosen that the query likes best of all, and from the next pass on are seen: P and C ("cpts"), all
    tokens ("full"), C ("hard"), or C and one mean key and value for all of P ("merge"). `recall` says where the keys
    and values of tokens outside P come from: they are made when first chosen ("recompute"), all of them after the
    prompt ("shadow"), or the prompt was never pruned ("dense"). Without `reversion`, C is chosen anew every `L` passes
    and P alone is never seen again. `joint` ranks by one softmax over all visual tokens, not by one over P and one
    over the rest. If `forced_triggers` is given, exactly these passes trigger (those which fall into L passes that
    have begun do not count)."""

    base: Masks | FastV | None
    m: int
    tau: float = 0.75
    L: int = 20
    recall: Literal["recompute", "shadow", "dense"] = "recompute"
    joint: bool = False
    swap: Literal["cpts", "full", "hard", "merge"] = "cpts"
    reversion: bool = True
    forced_triggers: Set[int] | None = None


Rule = Masks | FastV | VisionPulse | DSTP


@dataclass(frozen=True)
class Prompt:
    ids: list[int]
    embeds: Tensor  # [n, d], visual rows already in place
    positions: Tensor  # [axes, n] ids of the rotary embedding
    pictures: list[list[int]]  # sequence index of every visual token, by picture
    deepstack: list[Tensor]  # J x [visual tokens, d]; empty in most families


@dataclass(frozen=True)
class Pulse:
    """What VisionPulse did in a pass."""

    mass: float  # before it is held between the bounds
    k: int
    kept: list[int]


@dataclass(frozen=True)
class Step:
    """What DSTP did in a pass."""

    cosine: float | None  # None in the L passes after a trigger, and where P is empty
    trigger: bool
    chosen: list[int] | None  # C, if it was chosen in this pass (after a trigger, or L passes later without reversion)
    active: list[int]  # what this pass saw in the layers from the base's on, besides the mean of P of "merge"


@dataclass(frozen=True)
class Result:
    logits: Tensor  # [1 + len(generated), vocab]
    kept: Kept  # what exists in the last layer after the prompt, ascending
    scores: list[Tensor]  # FastV: for each picture, the attention that ranked its tokens (else empty)
    hidden: list[Tensor]  # depth + 1 states [n + len(generated), d]: entering each layer (before pruning), and the last
    pulses: list[Pulse] = field(default_factory=list)  # VisionPulse: of passes 1, 2, ...
    steps: list[Step] = field(default_factory=list)  # DSTP: of passes 1, 2, ...

    @property
    def triggers(self) -> list[int]:
        """DSTP: the passes that triggered."""
        return [t for t, step in enumerate(self.steps, 1) if step.trigger]


@dataclass
class Rows:
    """Room for the prompt, the generated tokens and, as the very last row, one that is not a token (for "merge")."""

    n: int  # rows of the prompt
    visual: list[int]  # sequence index of every visual token
    embeds: Tensor  # [size - 1, d]
    angles: Tensor  # [size - 1, head_dim / 2]
    deepstack: Tensor  # [depth, size - 1, d], added after each layer; zero but for visual tokens in the first layers
    keys: Tensor  # [depth, heads, size, head_dim], rotated, one for each query head
    values: Tensor
    known: Tensor  # [depth, size]: whose key and value are there


@dataclass(frozen=True)
class Prefill:
    hidden: list[Tensor]
    queries: list[Tensor]  # of each layer [heads, rows, head_dim]
    kept: Kept
    scores: list[Tensor]


class Decoder:
    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        self.config, self.dtype = model.config, dtype
        self.weights: dict[str, Tensor] = {k: v.to("cpu", dtype) for k, v in model.state_dict().items()}
        text = self.config.text_config
        assert text.hidden_act == "silu", "another activation"
        assert text.rope_parameters.get("rope_type", "default") == "default", "scaled RoPE"
        self.depth: int = text.num_hidden_layers
        self.head_dim: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.embedding = self.weights["model.language_model.embed_tokens.weight"]

    def linear(self, name: str, x: Tensor) -> Tensor:
        y, bias = x @ self.weights[name + ".weight"].T, self.weights.get(name + ".bias")
        return y if bias is None else y + bias

    def layer_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return unit * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def rms_norm(self, name: str, x: Tensor, eps: float | None = None) -> Tensor:
        eps = self.config.text_config.rms_norm_eps if eps is None else eps
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * self.weights[name + ".weight"]

    def frequencies(self, dim: int, theta: float) -> Tensor:
        """[dim / 2]: theta ** (-2 i / dim)."""
        return torch.tensor(theta, dtype=self.dtype).pow(-torch.arange(0, dim, 2) / dim)

    def text_angles(self, positions: Tensor) -> Tensor:
        """[n, head_dim / 2] from ids [axes, n]; here of one axis."""
        freqs = self.frequencies(self.head_dim, self.config.text_config.rope_parameters["rope_theta"])
        (ids,) = positions
        return ids[:, None] * freqs

    def project(self, i: int, x: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States [n, d] entering layer i -> rotated queries and keys, and values, each [heads, n, head_dim]."""
        text, name = self.config.text_config, f"model.language_model.layers.{i}"
        heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
        y = self.rms_norm(name + ".input_layernorm", x)
        q = split_heads(self.linear(name + ".self_attn.q_proj", y), heads)
        k = split_heads(self.linear(name + ".self_attn.k_proj", y), kv_heads)
        v = split_heads(self.linear(name + ".self_attn.v_proj", y), kv_heads)
        if name + ".self_attn.q_norm.weight" in self.weights:  # Qwen3
            q, k = self.rms_norm(name + ".self_attn.q_norm", q), self.rms_norm(name + ".self_attn.k_norm", k)
        k, v = (t.repeat_interleave(heads // kv_heads, dim=0) for t in (rotate(k, angles), v))
        return rotate(q, angles), k, v

    def layer(self, i: int, x: Tensor, at: Sequence[int], sees: Tensor, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """States [len(at), d] of the rows `at` through layer i, their keys and values put into the table first.

        `sees` [len(at), size] says who sees whom. Returns the new states, the queries and the attention."""
        at, name = list(at), f"model.language_model.layers.{i}"
        q, rows.keys[i][:, at], rows.values[i][:, at] = self.project(i, x, rows.angles[at])
        rows.known[i, at] = True
        out, attention = attend(q, rows.keys[i], rows.values[i], sees)
        x = x + self.linear(name + ".self_attn.o_proj", out)
        y = self.rms_norm(name + ".post_attention_layernorm", x)
        y = F.silu(self.linear(name + ".mlp.gate_proj", y)) * self.linear(name + ".mlp.up_proj", y)
        return x + self.linear(name + ".mlp.down_proj", y) + rows.deepstack[i, at], q, attention

    def head(self, x: Tensor) -> Tensor:
        weight = self.embedding if self.config.tie_word_embeddings else self.weights["lm_head.weight"]
        return self.rms_norm("model.language_model.norm", x) @ weight.T

    def rows(self, prompt: Prompt, generated: Sequence[int]) -> Rows:
        """An empty table. A generated token follows the highest id of the whole prompt, whatever was pruned."""
        text, n, tokens = self.config.text_config, len(prompt.ids), len(prompt.ids) + len(generated)
        visual = [at for picture in prompt.pictures for at in picture]
        after = prompt.positions.max() + 1 + torch.arange(len(generated)).expand(len(prompt.positions), -1)
        deepstack = torch.zeros(self.depth, tokens, text.hidden_size, dtype=self.dtype)
        for i, of_visual in enumerate(prompt.deepstack):
            deepstack[i, visual] = of_visual
        table = torch.zeros(self.depth, text.num_attention_heads, tokens + 1, self.head_dim, dtype=self.dtype)
        return Rows(
            n, visual, torch.cat([prompt.embeds, self.embedding[list(generated)]]),
            self.text_angles(torch.cat([prompt.positions, after], dim=1)), deepstack,
            table, table.clone(), torch.zeros(self.depth, tokens + 1, dtype=torch.bool),
        )  # fmt: skip

    def together(self, prompt: Prompt, count: int, rows: Rows, rule: Masks | FastV | None) -> Prefill:
        """The first `count` rows, all of them in each layer at once."""
        n, size = rows.n, rows.known.shape[1]
        assert not isinstance(rule, FastV) or 0 < rule.layer < self.depth, "FastV needs a layer before, one to prune"
        own = torch.arange(count)[:, None] == torch.arange(size)
        causal = torch.arange(count)[:, None] >= torch.arange(size)

        x, at = rows.embeds[:count], range(count)
        exists, attention = torch.ones(count, dtype=torch.bool), torch.empty(0)
        kept: Kept = [range(len(picture)) for picture in prompt.pictures]
        scores, hidden, queries = list[Tensor](), list[Tensor](), list[Tensor]()
        for i in range(self.depth):
            hidden.append(x)
            if isinstance(rule, FastV) and i == rule.layer:  # `attention` is still that of layer i - 1
                row = attention.mean(0)[n - 1]  # head mean of the last prompt token, softmax over its full causal row
                scores = [row[picture] for picture in prompt.pictures]
                kept = [top(s, k) for s, k in zip(scores, rule.keep, strict=True)]
            elif isinstance(rule, Masks):
                kept = rule.kept.get(i, kept)
            stays = torch.ones_like(exists)
            stays[rows.visual] = False
            stays[[picture[j] for picture, js in zip(prompt.pictures, kept, strict=True) for j in js]] = True
            assert not bool((stays & ~exists).any()), "a token that has gone cannot return"
            exists = stays

            # What has gone is nobody's key, and its own row is dead: zeroed, looking at nothing but itself.
            seen = torch.cat([exists, torch.zeros(size - count, dtype=torch.bool)])
            x, q, attention = self.layer(i, x * exists[:, None], at, (causal & seen & exists[:, None]) | own, rows)
            x, rows.known[i] = x * exists[:, None], seen
            queries.append(q)
        return Prefill([*hidden, x], queries, [sorted(js) for js in kept], scores)

    def run(self, prompt: Prompt, generated: Sequence[int] = (), rule: Rule | None = None) -> Result:
        """Logits after the prompt and after each generated token; the whole sequence is computed anew.

        Position ids and DeepStack rows of what is kept are those of the unpruned prompt."""
        rows = self.rows(prompt, generated)
        if isinstance(rule, VisionPulse):
            return self.vision_pulse(prompt, generated, rule, rows)
        if isinstance(rule, DSTP):
            return self.dstp(prompt, generated, rule, rows)
        all_rows = self.together(prompt, rows.n + len(generated), rows, rule)
        return Result(self.head(all_rows.hidden[-1][rows.n - 1 :]), all_rows.kept, all_rows.scores, all_rows.hidden)

    def greedy(self, prompt: Prompt, steps: int, rule: Rule | None = None) -> list[int]:
        """`steps` tokens, each the most likely after all before it; never stops early."""
        tokens: list[int] = []
        for _ in range(steps):
            tokens.append(int(self.run(prompt, tokens, rule).logits[-1].argmax()))
        return tokens

    def result(self, rows: Rows, prefill: Prefill, passes: list[list[Tensor]], **told: Any) -> Result:
        """`passes`: of each generated token its depth + 1 states [1, d]."""
        hidden = [torch.cat([x, *xs]) for x, *xs in zip(prefill.hidden, *passes, strict=True)]
        return Result(self.head(hidden[-1][rows.n - 1 :]), prefill.kept, prefill.scores, hidden, **told)

    # Rules that act while tokens are generated

    def sees(self, rows: Rows, row: int, visual: Sequence[int]) -> Tensor:
        """[1, size]: a generated row sees the text of the prompt, what was generated up to itself, and `visual`."""
        sees = torch.arange(rows.known.shape[1]) <= row
        sees[rows.visual] = False
        sees[list(visual)] = True
        return sees[None]

    def vision_pulse(self, prompt: Prompt, generated: Sequence[int], rule: VisionPulse, rows: Rows) -> Result:
        prefill = self.together(prompt, rows.n, rows, rule.base)
        number = {at: j for j, at in enumerate(rows.visual)}
        passes, pulses = list[list[Tensor]](), list[Pulse]()
        for row in range(rows.n, rows.n + len(generated)):
            x, states, likes = rows.embeds[[row]], list[Tensor](), set(rows.visual)
            for i in range(self.depth):
                states.append(x)
                there = [at for at in rows.visual if rows.known[i, at]]
                if i == rule.anchor:
                    q, k, _ = self.project(i, x, rows.angles[[row]])
                    before = rows.known[i].nonzero().flatten().tolist()  # text, visual tokens, earlier generated ones
                    z = (q @ torch.cat([rows.keys[i][:, before], k], dim=1).mT)[:, 0] / self.head_dim**0.5
                    columns = [before.index(at) for at in there]
                    mass = float((z / rule.tau).softmax(-1)[:, columns].sum(-1).max())
                    share = min(max(mass, rule.b_min), rule.b_max)
                    k_top = min(max(math.floor(share * len(there)), 1), len(there))
                    likes = {there[j] for j in top(z.mean(0)[columns], k_top)}
                    pulses.append(Pulse(mass, k_top, sorted(number[at] for at in likes)))
                x, _, _ = self.layer(i, x, [row], self.sees(rows, row, [at for at in there if at in likes]), rows)
            passes.append([*states, x])
        return self.result(rows, prefill, passes, pulses=pulses)

    def dstp(self, prompt: Prompt, generated: Sequence[int], rule: DSTP, rows: Rows) -> Result:
        assert rule.L > 0 and 0 <= rule.m < self.depth
        if isinstance(rule.base, FastV):
            cut = rule.base.layer
        else:  # the layer which pruned tokens do not enter any more
            assert rule.base is None or len(rule.base.kept) <= 1, "one set for all layers from one layer on"
            (cut,) = rule.base.kept if rule.base and rule.base.kept else (0,)
        prefill = self.together(prompt, rows.n, rows, rule.base)
        pairs = zip(prompt.pictures, prefill.kept, strict=True)
        kept = [picture[j] for picture, js in pairs for j in js]  # P, and what follows: sequence indices, ascending
        rest = [at for at in rows.visual if at not in kept]
        number = {at: j for j, at in enumerate(rows.visual)}

        # Where each token of the rest stands, which only goes up: it is about to enter this layer with this state.
        stand = {at: (cut, prefill.hidden[cut][at]) for at in rest}
        if rule.recall == "dense":
            ranked, rows = prefill, self.rows(prompt, generated)
            prefill = self.together(prompt, rows.n, rows, None)
            prefill = Prefill(prefill.hidden, prefill.queries, ranked.kept, ranked.scores)
            stand = {}
        elif rule.recall == "shadow":
            self.advance(rows, rest, stand, self.depth)

        mean = rows.known.shape[1] - 1  # the row that stands for P
        rows.keys[cut:, :, mean] = rows.keys[cut:, :, kept].mean(2) if kept else 0
        rows.values[cut:, :, mean] = rows.values[cut:, :, kept].mean(2) if kept else 0
        rows.known[cut:, mean] = bool(kept)

        def attention(query: Tensor, over: list[int]) -> Tensor:
            """Of one query [heads, head_dim] at layer m over the keys of these tokens only, mean of the heads."""
            keys = list[Tensor]()
            for at in over:
                if rows.known[rule.m, at]:
                    keys.append(rows.keys[rule.m][:, at])
                else:
                    layer, state = stand[at]
                    assert layer == rule.m
                    keys.append(self.project(rule.m, state[None], rows.angles[[at]])[1][:, 0])
            if not over:
                return query.new_zeros(0)
            logits = torch.einsum("hd,nhd->hn", query, torch.stack(keys)) / self.head_dim**0.5
            return logits.softmax(-1).mean(0)

        anchor = attention(prefill.queries[rule.m][:, -1], kept)
        passes, steps = list[list[Tensor]](), list[Step]()
        active, merged, remain = kept, False, 0
        for t, row in enumerate(range(rows.n, rows.n + len(generated)), 1):
            x, states, query = rows.embeds[[row]], list[Tensor](), torch.empty(0)
            for i in range(self.depth):
                states.append(x)
                sees = self.sees(rows, row, rows.visual if i < cut else active)
                sees[0, mean] = merged and i >= cut and bool(kept)
                assert rows.known[i][sees[0] & (torch.arange(mean + 1) != row)].all(), "sees what is not there"
                x, q, _ = self.layer(i, x, [row], sees, rows)
                query = q[:, 0] if i == rule.m else query
            passes.append([*states, x])

            cosine, trigger, chosen, seen = None, False, None, active
            if remain == 0:
                now = attention(query, kept)
                cosine = float((anchor @ now) / (anchor.norm() * now.norm())) if kept else None
                trigger = cosine is not None and cosine < rule.tau
                trigger = trigger if rule.forced_triggers is None else t in rule.forced_triggers
                choose = trigger
            else:
                remain -= 1
                choose = remain == 0 and not rule.reversion
                if remain == 0:
                    active, merged = kept, False
            if choose:
                if rule.recall == "recompute":  # all of the rest, so that it has keys in layer m
                    self.advance(rows, rest, stand, rule.m)
                if rule.joint:
                    ranks = attention(query, rows.visual)
                else:
                    ranks = torch.zeros(len(rows.visual), dtype=self.dtype)
                    ranks[[number[at] for at in kept]] = attention(query, kept)
                    ranks[[number[at] for at in rest]] = attention(query, rest)
                best = sorted(rows.visual[j] for j in top(ranks, len(kept)))
                chosen = [number[at] for at in best]
                active = {"cpts": sorted({*kept, *best}), "full": rows.visual}.get(rule.swap, best)
                merged, remain = rule.swap == "merge", rule.L
                if rule.recall == "recompute":
                    self.advance(rows, [at for at in active if at in rest], stand, self.depth)
            steps.append(Step(cosine, trigger, chosen, [number[at] for at in seen]))
        return self.result(rows, prefill, passes, steps=steps)

    def advance(self, rows: Rows, who: list[int], stand: dict[int, tuple[int, Tensor]], end: int) -> None:
        """Take pruned tokens of the prompt, from where each stands, to the entrance of layer `end`, one set.

        Each sees, up to its own index in the sequence, what of the prompt has keys in the layer: text, the visual
        tokens that the base left there, those that were taken through it before, and its own set. None sees it."""
        for i in range(end):
            at = [r for r in who if stand[r][0] == i]
            if not at:
                continue
            there = rows.known[i].clone()
            there[at], there[rows.n :] = True, False
            sees = there & (torch.arange(len(there)) <= torch.tensor(at)[:, None])
            x, _, _ = self.layer(i, torch.stack([stand[r][1] for r in at]), at, sees, rows)
            stand.update({r: (i + 1, state) for r, state in zip(at, x, strict=True)})


class CropDecoder(Decoder):
    """Families whose pictures come as square crops of one size, each its own sample of the tower; ids 0, 1, ..."""

    def crop(self, pixels: Tensor) -> Tensor:
        """One crop [3, h, w] -> visual tokens [N, d_lm]."""
        raise NotImplementedError

    def patches(self, name: str, pixels: Tensor) -> Tensor:
        """A convolution whose stride is its size, over a crop [3, h, w] -> [patches, d], row by row."""
        kernel = self.weights[name + ".weight"]  # [d, 3, p, p]
        p, (_, h, w) = kernel.shape[-1], pixels.shape
        squares = [
            pixels[:, r : r + p, c : c + p].flatten() for r in range(0, h - p + 1, p) for c in range(0, w - p + 1, p)
        ]
        x, bias = torch.stack(squares).to(self.dtype) @ kernel.flatten(1).T, self.weights.get(name + ".bias")
        return x if bias is None else x + bias

    def prompt(
        self, ids: Sequence[int], pixel_values: Tensor | None = None, tiles_per_picture: Sequence[int] = ()
    ) -> Prompt:
        """`ids` hold one picture token per visual token; `pixel_values` [crops, 3, h, w] those of all pictures."""
        visual = [i for i, token in enumerate(ids) if token == self.config.image_token_id]
        embeds, rest, pictures = self.embedding[list(ids)], iter(visual), list[list[int]]()  # embeds: a copy
        if pixel_values is not None:
            assert len(pixel_values) == sum(tiles_per_picture)
            crops = [self.crop(pixels) for pixels in pixel_values]
            embeds[visual] = torch.cat(crops)
            pictures = [[next(rest) for _ in range(count * len(crops[0]))] for count in tiles_per_picture]
        assert not list(rest), "more picture tokens than the pictures fill"
        return Prompt(list(ids), embeds, torch.arange(len(ids))[None], pictures, [])


def activation(name: str, x: Tensor) -> Tensor:
    if name == "quick_gelu":
        return x * torch.sigmoid(1.702 * x)
    return {"gelu": F.gelu(x), "gelu_pytorch_tanh": F.gelu(x, approximate="tanh")}[name]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[n, heads * d] -> [heads, n, d]."""
    return x.view(len(x), heads, -1).transpose(0, 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs (i, i + d / 2) of [heads, n, d] by angles [n, d / 2]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """[heads, n, d] each, mask [query, key] -> outputs [queries, heads * d] and the attention [heads, query, key]."""
    logits = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(~mask, float("-inf"))
    weights = logits.softmax(-1)
    return (weights @ v).transpose(0, 1).flatten(1), weights


def top(scores: Tensor, k: int) -> list[int]:
    """The k highest, equal ones in favour of the lower index."""
    return sorted(range(len(scores)), key=lambda j: (-float(scores[j]), j))[:k]
