"""A slow Qwen3-VL, written from its formulas with torch alone: the judge of the engine.

The text model and the pruning rules are those of `decoder`; here are the tower, M-RoPE and DeepStack.

    ref = Reference(model)
    prompt = ref.prompt(input_ids, pixel_values, grid_thw)
    result = ref.run(prompt, generated=[5, 9], rule=decoder.FastV(layer=2, keep=[20]))
    result.logits  # [3, vocab]: after the prompt, after token 5, after token 9
    result.kept    # for each picture, the tokens that remain
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .decoder import Decoder, Prompt, attend, rotate, split_heads

Grid = tuple[int, int, int]  # frames (always 1 here), patch rows, patch columns of a picture, before merging


class Reference(Decoder):
    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(model, dtype)
        assert self.config.vision_config.hidden_act == "gelu_pytorch_tanh", "another activation"

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
        x = self.layer_norm(name + ".norm", x, 1e-6).reshape(-1, wide)
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
            q, k, v = self.linear(name + ".attn.qkv", self.layer_norm(name + ".norm1", x, 1e-6)).chunk(3, dim=-1)
            q, k, v = (split_heads(t, vision.num_heads) for t in (q, k, v))
            out, _ = attend(rotate(q, angles), rotate(k, angles), v, everything)
            x = x + self.linear(name + ".attn.proj", out)
            y = self.linear(name + ".mlp.linear_fc1", self.layer_norm(name + ".norm2", x, 1e-6))
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
        embeds = self.embedding[list(ids)]  # a copy
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


def merge_order(h: int, w: int, merge: int) -> tuple[Tensor, Tensor]:
    """Row and column of each patch in the order of the processor: merge x merge blocks, row by row, patches within."""
    inner = [(r, c) for r in range(merge) for c in range(merge)]
    order = [(R + r, C + c) for R in range(0, h, merge) for C in range(0, w, merge) for r, c in inner]
    rows, cols = torch.tensor(order).unbind(1)
    return rows, cols
