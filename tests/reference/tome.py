"""ToMe in a whole tower by itself: full attention matrices, and matching by Python lists."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.pruners.test_tome import match


class Brute:
    """A crop through the tower: full attention matrices with log sizes, matching by Python lists.

    Args:
        x: [cls + P, Dt] what enters the first layer.
        r: tokens that merge in every layer.
        rope: [P, d / 2] angles.
        window: of every unit; layers 0 and 2 see nothing beyond it.

    Attributes:
        members: units that every row is made of, its own first.
    """

    def __init__(self, model: Any, x: Tensor, r: list[int], rope: Tensor | None, window: list[int]) -> None:
        self.model, self.cls, self.unit = model, int(model.info.has_cls), model.info.unit
        self.first, x = x[: self.cls], x[self.cls :].unflatten(0, (-1, self.unit))
        self.members, self.deepstack, self.layers = [[i] for i in range(len(x))], list[Tensor](), list[Any]()
        for i, block in enumerate(self.blocks()[: len(r)]):
            size = torch.tensor([1.0] * self.cls + [float(len(m)) for m in self.members for _ in range(self.unit)])
            bias, seen = size.log().expand(len(size), -1), (len(size),)
            if window and i in (0, 2):
                mine = torch.tensor([window[m[0]] for m in self.members]).repeat_interleave(self.unit)
                bias = bias.masked_fill(mine[:, None] != mine, -torch.inf)
                seen = tuple(int((mine == w).sum()) for w in range(max(window) + 1))
            x, keys = self.attention(block, x, bias, rope)
            rows = match(keys.mean(dim=(0, 2)).tolist(), r[i], bool(self.cls))
            x, self.deepstack = self.merge(rows, x), [self.merge(rows, y) for y in self.deepstack]
            rope = None if rope is None else rope.unflatten(0, (-1, self.unit))[[row[0] for row in rows]].flatten(0, 1)
            self.members = [[unit for j in row for unit in self.members[j]] for row in rows]
            fed = self.cls + len(rows) * self.unit
            self.layers.append((seen, fed, fed))
            x = self.mlp(block, x)
            if i in model.dims.deepstack:
                merger = model.visual.deepstack_merger_list[len(self.deepstack)]
                self.deepstack.append(merger(x.flatten(0, 1)))
        self.tokens = model.project(x.flatten(1))

    def merge(self, rows: list[list[int]], x: Tensor) -> Tensor:
        """Means of the rows x [n, ...], weighted by how many units each is made of."""
        share = [torch.tensor([float(len(self.members[j])) for j in row]) for row in rows]
        return torch.stack([torch.tensordot(w / w.sum(), x[row], 1) for row, w in zip(rows, share, strict=True)])

    def blocks(self) -> list[Any]:
        return list(self.model.visual.blocks if hasattr(self.model, "visual") else self.model.blocks)

    def attention(self, block: Any, x: Tensor, bias: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor]:
        """What leaves the first half, and the keys [H, n, unit, d] of the units."""
        rows = torch.cat([self.first, x.flatten(0, 1)])
        if hasattr(block, "attn"):
            module, normed, scale = block.attn, block.norm1(rows), 1.0
            q, k, v = module.qkv(normed).chunk(3, dim=1)
            out = module.proj
        else:
            clip = hasattr(block, "self_attn")
            module = block.self_attn if clip else block.attention
            normed = (block.layer_norm1 if clip else block.layernorm_before)(rows)
            q, k, v = module.q_proj(normed), module.k_proj(normed), module.v_proj(normed)
            q, k = (q, k) if clip else (module.q_norm(q), module.k_norm(k))
            scale, out = (1.0, module.out_proj) if clip else (block.lambda_1, module.projection_layer)
        q, k, v = (y.unflatten(1, (module.num_heads, -1)).transpose(0, 1) for y in (q, k, v))
        if rope is not None:  # angles [P, d / 2] of the pairs (i, i + d / 2), turned as complex numbers
            turn = torch.polar(torch.ones_like(rope), rope)
            q, k = (torch.complex(*y.chunk(2, dim=2)) * turn for y in (q, k))
            q, k = (torch.cat([y.real, y.imag], dim=2) for y in (q, k))
        weights = (q @ k.mT / q.shape[2] ** 0.5 + bias).softmax(2)
        rows = rows + scale * out((weights @ v).transpose(0, 1).flatten(1))
        self.first = rows[: self.cls]
        return rows[self.cls :].unflatten(0, (-1, self.unit)), k[:, self.cls :].unflatten(1, (-1, self.unit))

    def mlp(self, block: Any, x: Tensor) -> Tensor:
        rows = torch.cat([self.first, x.flatten(0, 1)])
        name = next(name for name in ("norm2", "layer_norm2", "layernorm_after") if hasattr(block, name))
        rows = rows + getattr(block, "lambda_2", 1.0) * block.mlp(getattr(block, name)(rows))
        self.first = rows[: self.cls]
        return rows[self.cls :].unflatten(0, (-1, self.unit))


def entering(model: Any, picture: Any) -> list[tuple[Tensor, Tensor | None, list[int]]]:
    """First arguments of `Brute` for every crop; windows are 2 x 2 units."""
    if hasattr(model, "blocks"):
        return [(x, None, []) for x in model.enter(picture.pixels)]
    rows, columns = (side // 2 for side in picture.grid)
    units, pairs = [(r, c) for r in range(rows) for c in range(columns)], model.info.tower_head_dim // 4
    places = [(2 * r + i, 2 * c + j) for r, c in units for i in (0, 1) for j in (0, 1)]
    angles = torch.tensor([[at * 1e4 ** (-k / pairs) for at in place for k in range(pairs)] for place in places])
    window = [r // 2 * ((columns + 1) // 2) + c // 2 for r, c in units] if model.grid(*picture.grid).windows else []
    return [(model.enter(picture.pixels[None], model.grid(*picture.grid))[0], angles, window)]
