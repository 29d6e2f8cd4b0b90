"""Qwen3-VL: tower with 2 x 2 merging and DeepStack, language model with interleaved M-RoPE."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import linear

from harness.accounting.dims import Dims
from harness.accounting.flops import TowerLayer
from harness.models.base import BadSample, Features, PictureInput, Prompt, Shrink, TowerHooks
from harness.models.decoder import Decoder, check_placeholders, conversation
from harness.models.sizes import rope_parameters, rope_turns, text_dims, tower_widths
from harness.models.stream import Stream, joint_attention, parted
from harness.models.tower import crop_axis, hidden_signal, joint_signal
from harness.models.windows import Windows
from pruners.layout import VisualLayout
from pruners.signals import Signal, TowerHidden
from pruners.views import ModelInfo

if TYPE_CHECKING:
    from harness.engine.parts import Part
    from harness.engine.trace import Request


class Grid(NamedTuple):
    """What follows from how many patches a picture has per column and row.

    Attributes:
        rope: cosines and sines [P, d] of the tower.
        corners: learned position embeddings [P] around each patch, and their weights [P].
        windows: which units see each other in all tower layers but `global_layers`; None: all.
    """

    rope: tuple[Tensor, Tensor]
    corners: list[tuple[Tensor, Tensor]]
    windows: Windows | None


class Qwen3VL(Decoder):
    """Adapter over the stock `Qwen3VLForConditionalGeneration`.

    The loop over tower blocks is ours too. Pixel limits of None are the processor's own.
    """

    axes = 3

    def __init__(
        self, net: Any, tokenizer: Any, image_processor: Any, name: str,
        min_pixels: int | None = None, max_pixels: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(net, tokenizer, image_processor)
        self.visual = net.model.visual
        self.info, self.dims = info(self.config, name), dims(self.config, self.dtype.itemsize)
        self.merge: int = self.config.vision_config.spatial_merge_size
        self.grid = lru_cache(maxsize=8)(torch.inference_mode(False)(self._grid))
        limits = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
        if given := {name: limit for name, limit in limits.items() if limit is not None}:
            image_processor.size = {**dict(image_processor.size), **given}

    def prepare(self, request: Request) -> Prompt:
        ids, images = self._parts(request)
        return self.layout_prompt(ids, tuple(self._pixels(image) for image in images))

    def prepare_shrunk(self, request: Request, shrink: Shrink) -> Prompt:
        ids, images = self._parts(request)
        grids = [self._tokens(self._pixels(image)) for image in images]
        pairs = [(image, *grid, *shrink(*grid)) for image, grid in zip(images, grids, strict=True)]
        prompt = self.layout_prompt(ids, tuple(self._small(*pair) for pair in pairs))
        return replace(prompt, whole=sum(rows * columns for rows, columns in grids))

    def _parts(self, request: Request) -> tuple[list[int], list[Any]]:
        """Token ids, with one placeholder for each of the pictures."""
        messages, images = conversation(request, request.system)
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids, images

    def _tokens(self, picture: PictureInput) -> tuple[int, int]:
        """Rows and columns of visual tokens."""
        return picture.grid[0] // self.merge, picture.grid[1] // self.merge

    def _small(self, image: Any, rows: int, columns: int, fewer_rows: int, fewer_columns: int) -> PictureInput:
        if (fewer_rows, fewer_columns) == (rows, columns):
            return self._pixels(image)
        side = self.merge * self.config.vision_config.patch_size
        small = image.resize((fewer_columns * side, fewer_rows * side), Image.Resampling.BICUBIC)
        return self._pixels(small, do_resize=False)  # the processor would enlarge what is below its limit

    def _pixels(self, image: Any, **options: Any) -> PictureInput:
        try:
            out = self.image_processor(images=[image], return_tensors="pt", **options)
        except ValueError as error:  # extreme aspect ratios
            raise BadSample(f"the image processor refuses the picture: {error}") from error
        _, height, width = out["image_grid_thw"][0].tolist()
        return PictureInput.of(out["pixel_values"], (height, width), image=image, **options)

    def layout_prompt(self, ids: list[int], pictures: tuple[PictureInput, ...]) -> Prompt:
        """Expand each picture's placeholder and number everything: text counts on, a picture spans a grid (M-RoPE)."""
        image_token = self.config.image_token_id
        check_placeholders(ids, image_token, len(pictures))
        grids = [self._tokens(picture) for picture in pictures]
        layout, out, position, columns, start = layout_of(tuple(grids)), list[int](), 0, list[Tensor](), 0
        for i, (rows, across) in enumerate([*grids, (0, 0)]):
            end = ids.index(image_token, start) if i < len(grids) else len(ids)
            columns.append(torch.arange(position, position + end - start).expand(3, -1))
            out += [*ids[start:end], *[image_token] * (rows * across)]
            position, start = position + end - start, end + 1
            if i < len(grids):
                here = layout.picture == i
                columns.append(torch.stack([torch.zeros_like(layout.row[here]), layout.row[here], layout.column[here]]))
                columns[-1] += position
                position += max(rows, across)
        row = torch.tensor(out)
        return Prompt(
            row, torch.cat(columns, dim=1), position, (row == image_token).nonzero().flatten(), layout, pictures
        )

    def encode(
        self,
        picture: PictureInput,
        signals: Sequence[Signal] = (),
        hooks: TowerHooks | None = None,
        part: Part = nullcontext,
    ) -> Features:
        return self._tower([picture], signals, hooks, part)

    def encode_many(
        self, pictures: Sequence[PictureInput], signals: Sequence[Signal] = (), part: Part = nullcontext
    ) -> list[Features]:
        return parted(self._tower(pictures, signals, None, part), [1] * len(pictures))

    def _tower(
        self, pictures: Sequence[PictureInput], signals: Sequence[Signal], hooks: TowerHooks | None, part: Part
    ) -> Features:
        """The tower on pictures of one grid; on one, if methods act inside it."""
        tower, unit, acts, grid = self.visual, self.merge**2, hooks or TowerHooks(), self.grid(*pictures[0].grid)
        hidden = self.enter(torch.stack([picture.pixels for picture in pictures]), grid)
        token = torch.arange(hidden.shape[0] * hidden.shape[1] // unit, device=self.device)
        stream = Stream(
            hidden, token, torch.ones(len(token), device=self.device), unit, rope=grid.rope, windows=grid.windows
        )
        out = Features(hidden, hidden.new_zeros(0), tower_tokens=[[] for _ in pictures])
        for i, block in enumerate(tower.blocks):
            here = [s for s in signals if getattr(s, "layer", None) in (i, i - len(tower.blocks))]
            windows, mask = None if i in self.global_layers else stream.windows, stream.mask(acts, i)
            for signal in here:
                if not isinstance(signal, TowerHidden):
                    with part("overhead"):
                        made = [joint_signal(signal, block, x, stream.rope, unit, windows, mask) for x in stream.hidden]
                    values, costs = zip(*made, strict=True)
                    out.signals[signal] = (torch.cat(values, dim=crop_axis(signal)), stream.token)
                    out.costs[signal] = sum(costs)
            seen = [len(stream)] if windows is None else [units * unit for units in windows.counts]
            stream.hidden = stream.hidden + joint_attention(
                block.attn, block.norm1(stream.hidden), stream.rope, windows, mask
            )
            stream.act(acts.inside.get(i), i, out)
            fed = len(stream)
            stream.hidden = stream.hidden + block.mlp(block.norm2(stream.hidden))
            for signal in here:
                if isinstance(signal, TowerHidden):
                    out.signals[signal] = (hidden_signal(signal, stream.hidden, 0, unit), stream.token)
            if i in self.dims.deepstack:
                stream.deepstack.append(tower.deepstack_merger_list[len(stream.deepstack)](stream.hidden.flatten(0, 1)))
            stream.act(acts.behind.get(i), i, out)
            for counts in out.tower_tokens:
                counts.append(TowerLayer(tuple(seen), fed, len(stream)))
        out.tokens = self.project(stream.units)
        out.deepstack = (
            torch.stack(stream.deepstack) if stream.deepstack else out.tokens.new_zeros(0, *out.tokens.shape)
        )
        if hooks is not None:
            out.token, out.size = stream.token, stream.size
        return out

    def enter(self, pixels: Tensor, grid: Grid) -> Tensor:
        """What enters the first tower layer [C, P, Dt], of the pixels of pictures of one grid."""
        total = torch.zeros((), device=self.device, dtype=torch.float32)
        for place, weight in grid.corners:
            total = total + weight[:, None] * self.visual.pos_embed.weight[place].float()
        return self.patches(pixels) + total.to(self.dtype)

    def patches(self, pixels: Tensor) -> Tensor:
        """Patch embeddings [C, P, Dt]: the stock convolution, whose strides are its kernel, as a matrix product."""
        convolution = self.visual.patch_embed.proj
        return linear(pixels.to(self.device, self.dtype), convolution.weight.flatten(1), convolution.bias)

    def _grid(self, height: int, width: int) -> Grid:
        return Grid(self._tower_rope(height, width), self._corners(height, width), None)

    @property
    def global_layers(self) -> Sequence[int]:
        """Tower layers that attend to the whole picture although others see windows."""
        return ()

    def project(self, units: Tensor) -> Tensor:
        tokens: Tensor = self.visual.merger(units.reshape(-1, self.dims.tower_hidden))
        return tokens

    def _grouped(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """(row, column) of every patch, in the order of the processor: 2 x 2 neighbours follow each other."""
        m = self.merge
        row = torch.arange(height).reshape(height // m, 1, m, 1).expand(-1, width // m, -1, m)
        column = torch.arange(width).reshape(1, width // m, 1, m).expand(height // m, -1, m, -1)
        return row.flatten().to(self.device), column.flatten().to(self.device)

    def _corners(self, height: int, width: int) -> list[tuple[Tensor, Tensor]]:
        """Which learned position embeddings a patch is between, and how near: bilinear with corners aligned."""
        side, corners = round(self.visual.pos_embed.weight.shape[0] ** 0.5), []
        y, x = (
            place * ((side - 1) / max(size - 1, 1))
            for place, size in zip(self._grouped(height, width), (height, width), strict=True)
        )
        for row in (y.floor(), y.floor() + 1):
            for column in (x.floor(), x.floor() + 1):
                weight = (1 - (y - row).abs()) * (1 - (x - column).abs())
                corner = row.clamp(max=side - 1) * side + column.clamp(max=side - 1)
                corners.append((corner.long(), weight))
        return corners

    def _tower_rope(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """(cos, sin) [P, d]: the first half of the frequencies turns with the row, the second with the column."""
        d = self.info.tower_head_dim
        frequency = 10000.0 ** -(torch.arange(0, d // 2, 2, device=self.device).float() / (d // 2))
        angle = torch.cat([place[:, None] * frequency for place in self._grouped(height, width)], dim=1).repeat(1, 2)
        return angle.cos(), angle.sin()

    def turn(self, angle: Tensor) -> Tensor:
        return angle.gather(0, self.rope_axis.expand(1, *angle.shape[1:]))[0]

    @cached_property
    def rope_axis(self) -> Tensor:
        """[d / 2] the axis that turns each pair of channels."""
        return torch.tensor(rope_axes(self.config.text_config), device=self.device)


@lru_cache(maxsize=64)
def layout_of(grids: tuple[tuple[int, int], ...]) -> VisualLayout:
    """Layout of pictures of so many rows and columns of visual tokens."""
    return VisualLayout.of_grids([*grids])


def rope_axes(text: Any) -> list[int]:
    """The axis that turns each pair of channels: t h w t h w ..., as far as each axis reaches; the rest is t."""
    section, pairs = rope_parameters(text)["mrope_section"], text_dims(text)["head_dim"] // 2
    return [i % 3 if i % 3 and i < 3 * section[i % 3] else 0 for i in range(pairs)]


def info(config: Any, name: str) -> ModelInfo:
    """What methods may know, from the config alone."""
    return ModelInfo(
        name=name, depth=config.text_config.num_hidden_layers, tower_depth=config.vision_config.depth,
        unit=config.vision_config.spatial_merge_size**2, axes=3, native=True,
        tower_head_dim=tower_widths(config.vision_config)[0] // config.vision_config.num_heads,
        tower_heads=config.vision_config.num_heads, rope=rope_turns(config.text_config, rope_axes(config.text_config)),
    )  # fmt: skip


def dims(config: Any, value_bytes: int) -> Dims:
    """Sizes for the accountant, from the config alone."""
    vision = config.vision_config
    unit, (hidden, mlp) = vision.spatial_merge_size**2, tower_widths(vision)
    return Dims(
        **text_dims(config.text_config), tower_depth=vision.depth, tower_cls=0, tower_hidden=hidden, tower_mlp=mlp,
        unit=unit,
        patch_inputs=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        merger_hidden=hidden * unit, deepstack=tuple(getattr(vision, "deepstack_visual_indexes", ())),
        value_bytes=value_bytes,
    )  # fmt: skip
