"""DeSAP: keep what the question speaks of, by decoupled CLIP attention, and what stands out; merge the rest into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pruners.base import Moment, PrunerError
from pruners.clip import needs_text, read
from pruners.layout import Scope
from pruners.merging import Merging
from pruners.selection import Selection, Weights, keep_top
from pruners.signals import ClipPatches, Signal
from pruners.views import ClipText, ModelInfo, View


@dataclass(frozen=True, kw_only=True)
class DeSAP(Merging):
    """Decoupled Similarity for Task-Aware Token Pruning in Large Vision-Language Models (arXiv 2604.11240).

    Equation-faithful; there is no official code to compare with.

    Patches A [n, e] of the tower's last layer are proj(softmax(Q Q^T / sqrt d) V), query against query, without
    residual and MLP. With the question's tokens S [T, e], its end q and the class token v of A:
    m = A S^T, alpha = A q, beta = S v,
    M_ij = m_ij (alpha_i softmax_j(lam beta_j m_ij) / n + beta_j softmax_i(lam alpha_i m_ij) / T), lam = 0.1,
    and the task score of patch i is the mean of M_ij over j. Half of the budget goes to the highest task scores, the
    other half to the rest's highest saliency, the class token's attention in that layer, mean over heads. Every other
    token is averaged into the kept one that is most like it (cosine). Order is that of the picture.

    Stated by the paper: all of the above, the moment (tower output, before the projector), and that a tower without
    class token takes averaged attention. Inferred: post_layernorm and visual_projection, text_projection on tokens, all
    of A, S, q, v of length one; S without the start token, which is the same for every question; features that are
    merged and compared are those that LLaVA projects; scores are compared within a crop; odd budgets round to even;
    questions of more than 77 tokens are read in segments, q their mean, where the paper drops words by an importance
    that it does not state. Coarse similarity (`fine_grained=False`) is alpha. The products alpha and beta, 2 e FLOPs a
    token, are not charged. Position ids: see `BeforeLLM`.

    Only the task score needs CLIP's text tower: with task_share=0 every model will do; a tower that merges merges
    embeddings then (inferred).

    Attributes:
        encoding: what takes the places of Q, K and V; "qqv" is the paper's, "qkv" the tower's own attention.
        similarity: "vanilla" takes the output of the whole last layer for A.
        fine_grained: the alignment M; else alpha alone.
        task_share: share of the budget that the task score chooses.
        merge: whether other tokens are averaged into the kept ones; else they are dropped.
        lam: temperature of the alignment.
    """

    scope: ClassVar[Scope] = "crop"
    encoding: Literal["qkv", "qqv", "kkv", "vvv"] = "qqv"
    similarity: Literal["vanilla", "decoupled"] = "decoupled"
    fine_grained: bool = True
    task_share: float = 0.5
    merge: bool = True
    lam: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.task_share <= 1:
            raise PrunerError(f"task_share must lie in [0, 1], got {self.task_share}")

    def check(self, model: ModelInfo) -> None:
        if self.task_share:
            needs_text(model)
        super().check(model)

    def signals(self, model: ModelInfo) -> Sequence[Signal]:
        me = self.resolved(model)
        saliency = [me.attention] if me.task_share < 1 else []
        return (*(me.patches if me.task_share else ()), *saliency, *(me.hidden if me.merge else ()))

    @property
    def patches(self) -> tuple[ClipPatches, ...]:
        """A, and its class token where the alignment reads it; exist after `resolved`."""
        layer, form = self.attention.layer, "hidden" if self.similarity == "vanilla" else self.encoding
        tokens = ClipPatches(layer, form)
        return (tokens, ClipPatches(layer, form, "cls")) if self.fine_grained else (tokens,)

    def flops(self, model: ModelInfo, moment: Moment, n: int, width: int) -> int:
        k = self.count(n)
        merged = model.tower_heads * model.tower_head_dim if self.resolved(model).hidden else width
        return 2 * (n - k) * k * merged if self.merge and k < n else 0

    def at_embed(self, view: View) -> Selection | None:
        n, k = len(view), self.count(len(view))
        if k >= n:
            return None
        first = round(self.task_share * k)
        kept = keep_top(self.task(view), first).source if first else view.index[:0]
        if first < k:
            saliency = view[self.attention].index_fill(0, kept, -torch.inf)
            kept = torch.cat([kept, keep_top(saliency, k - first).source]).sort().values
        if not self.merge:
            return Selection(kept, positions=self.positions)
        return self.merged(view, kept, absorbed(kept, self.rows(view)))

    def task(self, view: View) -> Tensor:
        """Scores [n] of how much the question speaks of each token."""
        text = read(view, view.sample.question)
        patches = [view[signal] for signal in self.patches]
        if not self.fine_grained:
            return unit(patches[0]) @ unit(text.pooled).mean(0)
        view.charge(2 * patches[0].numel() * (len(text.tokens) - 1))
        return aligned(patches[0], patches[1][0], text, self.lam)


def unit(x: Tensor) -> Tensor:
    """Rows of length one, float32."""
    return normalize(x.float(), dim=-1)


def aligned(patches: Tensor, cls: Tensor, text: ClipText, lam: float) -> Tensor:
    """Task scores [n] of patches [n, e] with class token [e], for the tokens of a question behind its start."""
    a, s = unit(patches), unit(text.tokens[1:])
    m, alpha, beta = a @ s.T, (a @ unit(text.pooled).mean(0))[:, None], s @ unit(cls)
    by_word = alpha * (lam * beta * m).softmax(1) / len(a)
    by_patch = beta * (lam * alpha * m).softmax(0) / len(s)
    return ((by_word + by_patch) * m).mean(1)


def absorbed(kept: Tensor, features: Tensor) -> Weights:
    """W [k, n] that averages every other token of features [n, D] into the most similar of those kept [k]."""
    n, k = len(features), len(kept)
    others = features.new_ones(n).scatter(0, kept, 0.0).argsort(descending=True, stable=True)[: n - k]
    rows = unit(features)
    row = torch.cat([torch.arange(k, device=kept.device), (rows[others] @ rows[kept].T).argmax(1)])
    share = 1 / torch.zeros(k, device=kept.device).index_add(0, row, torch.ones(n, device=kept.device))
    return Weights(row, torch.cat([kept, others]), share[row])
