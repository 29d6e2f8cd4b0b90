"""Rules of methods inside the language model, and VScan's before it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harness.golden import decoder
from harness.golden.compare import Damaged, Golden, written
from harness.golden.rules import LLAVA
from harness.golden.scene import Bare, prefill, pruned
from harness.golden.tower_rules import OnSquare
from harness.models.tower import rotate
from pruners.dart import DART
from pruners.pyramiddrop import PyramidDrop
from pruners.signals import Hidden, Keys, TowerAttention
from pruners.v2drop import V2Drop
from pruners.vscan import VScan


class Ranking(Bare):
    """Layers that change nothing, but have the queries and keys of a file."""

    def __init__(self, golden: Golden, hidden: Tensor) -> None:
        super().__init__(LLAVA, hidden)
        self.golden = golden

    def qk(self, k: int, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        golden, width = self.golden, len(self.golden["in_q_weight"]) // self.golden.number("in_num_heads")
        scale = (hidden.square().mean(-1, keepdim=True) + golden["in_rmsnorm_eps"]).rsqrt()
        normed = golden["in_rmsnorm_weight"] * hidden * scale
        frequency = golden["in_rope_base"] ** (-torch.arange(0, width, 2) / width)
        angle = positions[0, :, None] * torch.cat([frequency, frequency])
        q, k_ = (
            rotate((normed @ golden[name].T).unflatten(1, (-1, width)).transpose(0, 1), (angle.cos(), angle.sin()))
            for name in ("in_q_weight", "in_k_weight")
        )
        return q, k_


def pyramiddrop(golden: Golden) -> None:
    """One stage on a batch padded on the right: places that stay, padded with -1, and ids and rows, with zeros."""
    before, after = ((golden.ratio(f"in_ratio_{when}"),) for when in ("before", "after"))
    start, layer = golden.number("in_image_start"), 16
    index, positions, rows = [], [], []
    batch, places, width = golden["in_hidden"].shape
    texts = iter(golden.shaped("in_text_tokens_after_image", batch).tolist())
    golden.shaped("in_rmsnorm_weight", width)
    for hidden, mask, full in zip(
        golden["in_hidden"],
        golden.shaped("in_attention_mask", batch, places),
        golden["in_image_tokens_full"].tolist(),
        strict=True,
    ):
        length, n = int(mask.sum()), 0
        text = next(texts)
        pruner = PyramidDrop(drop_at=(layer,), ratios=after)
        if full:
            n = PyramidDrop(drop_at=(layer,), ratios=before).left(full, LLAVA.depth)[layer]
            if start + n + text != length:
                raise Damaged(f"{start} + {n} + {text} tokens are not the {length} of the mask")
            share = (pruner.left(full, LLAVA.depth)[layer] + 0.5) / n  # of what is there; the files' is of `full`
            pruner = PyramidDrop(drop_at=(layer,), ratios=(min(1.0, share),))
        segment = prefill(Ranking(golden, hidden[:length]), pruner, torch.arange(length), start if n else 0, n).segment
        index.append(segment.index)
        positions.append(segment.positions[0])
        rows.append(segment.hidden)
    golden.equal("out_keep_index", torch.nn.utils.rnn.pad_sequence(index, True, -1))
    golden.equal("out_position_ids", torch.nn.utils.rnn.pad_sequence(positions, True))
    golden.close("out_hidden", torch.nn.utils.rnn.pad_sequence(rows, True))


def v2drop(golden: Golden) -> None:
    """Hidden states entering two layers in; the sequence after the drop out, with the ratio of that layer."""
    layer, start, n = (golden.number(f"in_{name}") for name in ("layer", "image_start", "image_tokens"))
    paper = V2Drop()
    ratio = dict(zip(paper.starts(LLAVA.depth), paper.SCHEDULE[1], strict=True))[layer]
    _, after = pruned(
        V2Drop(drop_at=(layer,), ratios=(ratio,)), golden["in_cur_hidden"], start, n, LLAVA,
        {Hidden(layer - 1): golden.shaped("in_prev_hidden", *golden["in_cur_hidden"].shape)[start : start + n]},
    )  # fmt: skip
    golden.equal("out_keep_index", after.index)
    golden.equal("out_position_ids", after.positions[0])


def dart(golden: Golden) -> None:
    """Keys of all tokens and their normed hidden states in; places of the kept ones in the picture out."""
    hidden, keys, layer = golden["in_normed_hidden"], golden["in_keys"], 2
    start, n, length = golden.number("in_sys_length"), golden.number("in_image_length"), len(hidden)
    golden.shaped("in_keys", None, length, None)
    if not 0 <= start <= start + n <= length:
        raise Damaged(f"visual tokens {start} to {start + n} do not fit a sequence of {length}")
    pruner = DART(
        keep=None, tokens=golden.number("in_max_num_truncation"), layer=layer,
        image_pivots=golden.number("in_pivot_image"), text_pivots=golden.number("in_pivot_text"),
    )  # fmt: skip
    token = torch.arange(length) - length  # text is told by its place, visual tokens count on from the prompt's length
    token[start : start + n] = torch.arange(n)
    known = {Keys(layer - 1): (keys, token)}
    after = prefill(Bare(LLAVA, hidden), pruner, torch.arange(length), start, n, signals=known).segment
    golden.equal("out_keep_index", after.column)


def vscan(golden: Golden) -> None:
    """Stage 1: projected tokens and attention of two tower layers in, merged tokens out."""
    features, keep = golden["in_features"], golden.number("in_keep")
    shallow, deep = golden["in_shallow_cls_attention"], golden["in_deep_cls_attention"]
    selection, after = pruned(
        OnSquare(base=VScan(keep=None, tokens=keep, share=1.0)), features, 0, len(features), LLAVA,
        {TowerAttention(5, "cls", "mean"): shallow, TowerAttention(-2, "cls", "mean"): deep},
    )  # fmt: skip
    golden.equal("out_keep_index", selection.source)
    golden.close("out_merged_features", after.hidden)


def e2e_pyramiddrop(golden: Golden) -> None:
    """The ratio list begins with that of the layers before the first stage, which is 1."""
    ratios = tuple(map(written, golden["in_ratio_list"].tolist()))[1:]
    decoder.run(golden, PyramidDrop(drop_at=tuple(golden["in_layer_list"].tolist()), ratios=ratios))


def e2e_v2drop(golden: Golden) -> None:
    decoder.run(golden, V2Drop(drop_at=(3, 17, 22), ratios=V2Drop.SCHEDULE[1]))


def e2e_dart(golden: Golden) -> None:
    tokens = golden.number("in_max_num_truncation")
    decoder.run(golden, DART(keep=None, tokens=tokens, layer=golden.number("in_layer_K")))


METHODS: dict[str, Callable[[Golden], None]] = {
    "PyramidDrop": pyramiddrop,
    "V2Drop": v2drop,
    "DART": dart,
    "VScan": vscan,
    "E2E_PyramidDrop": e2e_pyramiddrop,
    "E2E_V2Drop": e2e_v2drop,
    "E2E_DART": e2e_dart,
}
