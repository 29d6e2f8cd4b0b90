"""The CLIP text tower beside the tiny LLaVA's vision tower, for methods that compare patches with the question."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from harness.benchmarks import glyphs
from harness.benchmarks.glyphs import Task
from harness.models.tower import decoupled
from scripts.tiny.world import CELLS, Batches, draw, make_tokenizer

WIDTH = 64
SCALE = 20.0
"""Inverse temperature of cosines."""


class Clip:
    """A stock CLIPModel around a trained vision tower, and its contrastive training.

    A question must tell the patches that it names from the picture's other patches. As in OpenAI's CLIP, the patches
    that enter the last layer are least like the words that name them (for which TRIM and CDPruner rank by minus the
    cosine), what the last layer's attention between queries makes of them is most like them (DeSAP), and cosines are
    hardly ever negative. What the language model sees stays as it is: of the vision tower only the last layer, which
    LLaVA does not run, and the last norm are trained.
    """

    def __init__(self, tower: Any) -> None:
        self.tokenizer = make_tokenizer(
            ["<s>", "</s>", "<pad>"], ends=True, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
        )
        torch.manual_seed(0)
        config = transformers.CLIPConfig(
            text_config=dict(
                hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=4,
                vocab_size=len(self.tokenizer), max_position_embeddings=77, bos_token_id=self.tokenizer.bos_token_id,
                eos_token_id=self.tokenizer.eos_token_id, pad_token_id=self.tokenizer.pad_token_id,
            ),
            vision_config=tower.config.to_dict(), projection_dim=WIDTH,
        )  # fmt: skip
        self.net: Any = transformers.CLIPModel(config)
        self.net.vision_model.load_state_dict(tower.state_dict())
        vision = self.net.vision_model
        self.last, self.norm = vision.encoder.layers[-1], vision.post_layernorm
        for parameter in vision.parameters():
            parameter.requires_grad_(False)
        for part in (self.last, self.norm):
            part.requires_grad_(True)

    def similarities(self, pixels: Tensor, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines with patches entering the last layer [B, CELLS], and with its decoupled ones, by token.

        The first and second are those of the text's end, the third those of its tokens [B, 1 + CELLS, T], class token
        first, 0 for padding.
        """
        entering = self.net.vision_model(pixels, output_hidden_states=True).hidden_states[-2]
        made, _ = decoupled("qqv", self.last.self_attn, self.last.layer_norm1(entering), slice(0, None))
        plain, mixed = (F.normalize(self.net.visual_projection(self.norm(x)), dim=-1) for x in (entering[:, 1:], made))
        given = self.tokenizer(texts, padding=True, return_tensors="pt")
        out = self.net.text_model(given["input_ids"], given["attention_mask"])
        tokens, pooled = (F.normalize(self.net.text_projection(x), dim=-1) for x in (out[0], out[1]))
        tokens = (tokens * given["attention_mask"][..., None])[:, 1:]  # the first is the same for all texts
        end = pooled[..., None]
        return (plain @ end)[..., 0], (mixed[:, 1:] @ end)[..., 0], mixed @ tokens.mT

    def train(self, batches: Batches, steps: int) -> None:
        """Train on questions about one picture."""
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1.0, (step + 1) / 50, 2 * (steps - step) / steps)
            tasks = draw(random.Random(f"clip/{step}"), glyphs.SIZE)
            target, found = named(tasks), self.similarities(shown(batches, tasks), [task.question for task in tasks])
            plain, mixed, tokens = found
            words = tokens[:, 1:].sum(2) / (tokens != 0).any(1).sum(1, keepdim=True)
            loss = sum(F.cross_entropy(SCALE * x, target) for x in (-plain, mixed, words))
            loss = loss + sum(10 * F.relu(-x).square().mean() for x in found)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if (step + 1) % 100 == 0:
                print(f"clip step {step + 1} loss {loss.item():.3f}", flush=True)

    @torch.no_grad()
    def hits(self, batches: Batches, n: int = 500) -> dict[str, float]:
        """Share of unseen look-ups whose needed patch is the first of all: by minus the plain, by the decoupled."""
        rng = random.Random("unseen/clip")
        tasks = [rng.choice((glyphs.lookup_by_position, glyphs.lookup_by_colour))(rng) for _ in range(n)]
        plain, mixed, _ = self.similarities(shown(batches, tasks), [task.question for task in tasks])
        needed = named(tasks).argmax(1)
        found = {"minus the plain": -plain, "decoupled": mixed}
        return {name: (x.argmax(1) == needed).float().mean().item() for name, x in found.items()}

    def save(self, net: Any, out: Path) -> None:
        """Write the CLIP model, and hand its last vision layer and norm to LLaVA's tower."""
        net.model.vision_tower.load_state_dict(self.net.vision_model.state_dict())
        self.net.save_pretrained(out)
        self.tokenizer.save_pretrained(out)


def shown(batches: Batches, tasks: list[Task]) -> Tensor:
    """Pixels of one picture per task."""
    return batches.pixels(np.stack([glyphs.render(task.grid) for task in tasks]))


def named(tasks: list[Task]) -> Tensor:
    """[B, CELLS]: the cells that a question names, as shares; of a walk its start."""
    target = torch.zeros(len(tasks), CELLS)
    for row, task in zip(target, tasks, strict=True):
        for r, c in task.needed[:1] if task.kind == "walk" else task.needed:
            row[r * glyphs.SIZE + c] += 1
    return target / target.sum(1, keepdim=True)
