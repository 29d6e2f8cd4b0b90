"""What the tiny models are trained and tested on: words, mixes of tasks, batches."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from harness.benchmarks import glyphs
from harness.benchmarks.glyphs import SIZE, Task

CELLS = SIZE * SIZE
PLACES = [glyphs.name((r, c)) for r in range(SIZE) for c in range(SIZE)]
LONGEST = 10
"""Steps of a walk in training; the default test has 8."""

Mix = Callable[[random.Random, int], Task]
TASKS: dict[str, tuple[int, Mix]] = {  # samples of a batch, and how one is drawn in the corner of `side` cells
    "read": (2, glyphs.read_row),
    "find": (4, lambda rng, side: glyphs.find_colours(rng)),
    "walk": (6, lambda rng, side: glyphs.walk(rng, rng.randint(2, min(LONGEST, 2 * side - 1)), side, _free(rng))),
    "position": (4, lambda rng, side: glyphs.lookup_by_position(rng, rng.choice((1, 2, 3, 5, 8)), side, _free(rng))),
    "colour": (5, lambda rng, side: glyphs.lookup_by_colour(rng, rng.choice((1, 1, 2, 3, 4)), _free(rng))),
}


def _free(rng: random.Random) -> bool:
    return rng.random() < 0.25


def draw(rng: random.Random, side: int, pair: bool = False, shrink: int = 1, distracted: float = 0.2) -> list[Task]:
    """A batch: a share `distracted` behind distractions, and, where `pair` is set, all about one of two pictures."""
    tasks = [mix(rng, side) for share, mix in TASKS.values() for _ in range(max(1, share // shrink))]
    tasks = [glyphs.distracted(rng, task) if rng.random() < distracted else task for task in tasks]
    return [glyphs.paired(rng, task) for task in tasks] if pair else tasks


TEST: dict[str, Callable[[random.Random], Task]] = {
    "position": glyphs.lookup_by_position,
    "colour": glyphs.lookup_by_colour,
    "walk": lambda rng: glyphs.walk(rng, rng.randint(3, 8)),
}
OPTIONS: dict[str, Callable[[random.Random], Task]] = {
    "free": lambda rng: rng.choice((glyphs.lookup_by_position, glyphs.lookup_by_colour))(rng, free=True),
    "free walk": lambda rng: glyphs.walk(rng, rng.randint(3, 8), free=True),
    "distracted": lambda rng: glyphs.distracted(rng, glyphs.lookup_by_position(rng)),
    "paired": lambda rng: glyphs.paired(rng, glyphs.lookup_by_position(rng)),
    "paired walk": lambda rng: glyphs.paired(rng, glyphs.walk(rng, rng.randint(3, 8))),
    "long walk": lambda rng: glyphs.walk(rng, rng.randint(9, LONGEST)),
}


def make_tokenizer(special: list[str], ends: bool = False, **options: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE (nothing is unknown to it) in which every word of the glyph world is one token.

    `options` are those of the stock tokenizer; texts begin with `bos_token` if there is one, and `ends` with
    `eos_token`.
    """
    tokenizer = Tokenizer(models.BPE())
    words = Regex(r" ?[a-h][1-8](?![0-9a-z])| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(t, special=True) for t in special], show_progress=False,
    )  # fmt: skip
    corpus = [form for word in glyphs.vocabulary() for form in (word, " " + word)] * 2
    tokenizer.train_from_iterator([*corpus, *["user", "assistant", "system", "USER", "ASSISTANT", " ="] * 4], trainer)
    if bos := options.get("bos_token"):
        marks = [(token, tokenizer.token_to_id(token)) for token in (bos, options["eos_token"])]
        single = f"{bos} $A {options['eos_token']}" if ends else f"{bos} $A"
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=marks)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=8192, clean_up_tokenization_spaces=False, **options
    )
    for word in glyphs.vocabulary():
        assert len(fast.encode(" " + word, add_special_tokens=False)) == 1, word
    return fast


def words(tokenizer: PreTrainedTokenizerFast, names: list[str]) -> Tensor:
    """Token ids of words of the world, as they stand behind a space."""
    return torch.tensor([tokenizer.encode(" " + name, add_special_tokens=False)[0] for name in names])


def attributes(tasks: list[Task]) -> Tensor:
    """[3, pictures, CELLS]: index of colour, pips and arrow of every cell of every picture of the prompts in order."""
    grids = [(g.colour, np.array(g.pips) - 1, g.arrow) for task in tasks for g in task.grids]
    return torch.from_numpy(np.array(grids)).flatten(2).transpose(0, 1)


class Batches:
    """Inputs of the stock model, and labels, for lists of tasks; prompts as the chat template writes them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, processor: Any, image: str, shown: str, qwen: bool) -> None:
        """`image` stands for a visual token, and for the picture in the chat template; there `shown` takes its place.

        `qwen`: flat patches, and positions on three axes.
        """
        self.placeholder, self.shown = image, shown
        self.tokenizer, self.processor, self.qwen = tokenizer, processor, qwen
        self.image = tokenizer.convert_tokens_to_ids(image)
        picture = glyphs.render(glyphs.read_row(random.Random(0)).grid)
        stock = processor(images=[Image.fromarray(picture)], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(self.pixels(picture[None]), stock)

    def pixels(self, images: np.ndarray) -> Tensor:
        """What the stock image processor makes of pictures [B, H, W, 3], only faster."""
        x = torch.from_numpy(images).float().div(127.5).sub(1).permute(0, 3, 1, 2)
        return patches(x) if self.qwen else x.contiguous()

    def tiles(self, images: np.ndarray) -> Tensor:
        """The same of pictures that InternVL reads in several tiles, thumbnails last: [B * crops, 3, 128, 128]."""
        given = [Image.fromarray(image) for image in images]
        out: Tensor = self.processor(images=given, crop_to_patches=True, return_tensors="pt")["pixel_values"]
        return out

    def prompt(self, task: Task, crops: int = 1) -> list[int]:
        """Token ids, every picture's placeholder as often as it has visual tokens."""
        parts = [*({"type": "image"} for _ in task.grids), {"type": "text", "text": task.question}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer.encode(text.replace(self.placeholder, self.shown))
        return [t for i in ids for t in [i] * (crops * CELLS if i == self.image else 1)]

    def __call__(self, tasks: list[Task], crops: int = 1) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs and labels; with several crops, pictures are drawn at twice the size."""
        rows = []
        for task in tasks:
            reply = self.tokenizer.encode(" " + task.reply, add_special_tokens=False)
            rows.append((self.prompt(task, crops), [*reply, self.tokenizer.eos_token_id]))
        width = max(len(p) + len(r) for p, r in rows)
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), -100)
        for i, (prompt, reply) in enumerate(rows):
            ids[i, : len(prompt) + len(reply)] = torch.tensor(prompt + reply)
            labels[i, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
        grids = [grid for task in tasks for grid in task.grids]
        pictures = np.stack([glyphs.render(grid, 16 if crops == 1 else 32) for grid in grids])
        inputs = {"input_ids": ids, "pixel_values": (self.pixels if crops == 1 else self.tiles)(pictures)}
        if self.qwen:
            inputs["image_grid_thw"] = torch.tensor([[1, 2 * SIZE, 2 * SIZE]] * len(grids))
            inputs["position_ids"] = positions(ids == self.image)
        return inputs, labels


def patches(x: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B * H / 8 * W / 8, 3 * 2 * 8 * 8] in the order of Qwen's image processor."""
    b, _, h, w = x.shape
    x = x.reshape(b, 3, h // 16, 2, 8, w // 16, 2, 8).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.unsqueeze(6).expand(*x.shape[:6], 2, 8, 8).reshape(b * (h // 8) * (w // 8), -1)


def positions(image: Tensor) -> Tensor:
    """[3, B, L] of where visual tokens stand [B, L]: a picture counts as SIZE places, turned by row and column."""
    cell = torch.where(image, (image.cumsum(1) - 1) % CELLS, 0)
    step = torch.where(image, 0, 1) + SIZE * (cell == CELLS - 1)
    start = step.cumsum(1) - step
    return torch.stack([start, start + cell // SIZE, start + cell % SIZE])
