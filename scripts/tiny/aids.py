"""What helps the tiny models to learn; a finished model carries nothing of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from harness.benchmarks import glyphs
from harness.benchmarks.glyphs import Task
from scripts.tiny.world import CELLS, PLACES, attributes, words

READ = 2
"""The language model's layer, from 0, in which text first looks at pictures."""


class Alignment:
    """Auxiliary losses: hidden states name cells, read off with the word embeddings, as in LLaVA's alignment stage.

    * `named`: every projected visual token names its cell, colour, pips and arrow. It ties the word "c3" to the
      picture's place c3; left to find that through attention alone, a model of this size stays at chance for thousands
      of steps.
    * `pointed`: behind layer READ every word that points at a cell names them, too. A question supervises a single
      token of its reply; this tells what its words had to look up.
    * `looked`: minus the log of the attention (mean over heads) that such a word pays to its cell in layer READ.

    Words that point are names of cells and colours that occur once. There are far more of the first, and keys that fit
    them are blind to colours: with one mean over both, look-ups by colour stay at chance. Both kinds weigh the same.
    """

    def __init__(self, net: Any, tokenizer: PreTrainedTokenizerFast, projector: str, image: int) -> None:
        pips = [str(i + 1) for i in range(glyphs.MAX_PIPS)]
        names = (PLACES, list(glyphs.COLOURS), pips, list(glyphs.ARROWS))
        self.words, self.image = [words(tokenizer, some) for some in names], image
        self.embeddings = net.get_input_embeddings()
        self.states: dict[str, Tensor] = {}
        layer = net.model.language_model.layers[READ]
        net.model.get_submodule(projector).register_forward_hook(partial(self._keep, "picture"))
        layer.register_forward_hook(partial(self._keep, "text"))
        layer.self_attn.register_forward_hook(partial(self._keep, "attention"))

    def _keep(self, name: str, _module: nn.Module, _inputs: object, output: Any) -> None:
        self.states[name] = output if isinstance(output, Tensor) else output[name == "attention"]

    def losses(self, tasks: list[Task], ids: Tensor, crops: int = 1) -> dict[str, Tensor]:
        """The three losses; the first two are means over four attributes. The last of several crops shows all cells."""
        facts = attributes(tasks)
        places = torch.arange(CELLS).expand(facts.shape[1], -1)
        cells = torch.cat([places[None], facts])
        before = torch.tensor([len(task.before) for task in tasks])
        own = before + torch.tensor([0, *(len(task.grids) for task in tasks[:-1])]).cumsum(0)
        cell, by_colour = self.pointed(ids, facts[0, own])
        row, column = (cell >= 0).nonzero(as_tuple=True)
        goal, kind = cell[row, column], by_colour[row, column].float()
        weight = torch.where(kind > 0, 0.5 / kind.sum().clamp(min=1), 0.5 / (1 - kind).sum().clamp(min=1))
        place = (before[:, None] * crops + crops - 1) * CELLS + cell + 1
        visual = torch.searchsorted((ids == self.image).cumsum(1), place)
        attention = self.states["attention"][row, :, column].float().mean(1)
        looked = -(attention.gather(1, visual[row, column][:, None])[:, 0] + 1e-4).log()
        whole = self.states["picture"][crops - 1 :: crops]
        everywhere = torch.full((cells[0].numel(),), 1 / cells[0].numel())
        return {
            "named": self._named(whole.flatten(0, -2), cells.flatten(1), everywhere),
            "pointed": self._named(self.states["text"][row, column], cells[:, own[row], goal], weight),
            "looked": looked @ weight,
        }

    def _named(self, states: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        x, table = F.rms_norm(states.float(), states.shape[-1:]), self.embeddings.weight.float()
        losses = [
            F.cross_entropy(x @ table[ids].T, target, reduction="none") @ weight
            for ids, target in zip(self.words, targets, strict=True)
        ]
        return torch.stack(losses).mean()

    def pointed(self, ids: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
        """The cell at which each token [B, L] points, else -1, and whether a colour does.

        `colours` [B, CELLS] are those of the picture asked about.
        """
        table = torch.full((len(ids), len(self.embeddings.weight)), -1)
        table[:, self.words[0]] = torch.arange(CELLS)
        table[:, self.words[1]] = once(colours)
        return table.gather(1, ids), torch.isin(ids, self.words[1])


def once(colours: Tensor) -> Tensor:
    """[B, colours] of pictures [B, CELLS]: the cell of each colour that occurs in one cell only, else -1."""
    here = colours[:, None] == torch.arange(len(glyphs.COLOURS))[:, None]
    return torch.where(here.sum(2) == 1, here.int().argmax(2), -1)


class Summary(nn.Module):
    """Auxiliary loss for towers with a class token: it tells which colours occur in one cell only.

    In a picture of random cells these are what a caption would mention; otherwise nothing would train the class token.
    """

    def __init__(self, net: Any, layer: str | None) -> None:
        super().__init__()
        self.state: Tensor | None = None
        self.head = nn.Linear(net.config.vision_config.hidden_size, len(glyphs.COLOURS))
        if layer is not None:
            net.model.get_submodule(layer).register_forward_hook(self._see)

    def _see(self, _module: nn.Module, _inputs: object, output: Any) -> None:
        self.state = (output if isinstance(output, Tensor) else output[0])[:, 0]

    def loss(self, tasks: list[Task], crops: int = 1) -> Tensor:
        """Mean over pictures and colours; zero without a class token. The last of several crops shows all cells."""
        if self.state is None:
            return torch.zeros(())
        target = (once(attributes(tasks)[0]) >= 0).float()
        whole = self.state[crops - 1 :: crops]
        return F.binary_cross_entropy_with_logits(self.head(F.layer_norm(whole, whole.shape[-1:])), target)


class Barrier:
    """Keeps text from looking at the picture below layer READ, for the first three quarters of a training.

    A model left alone reads its pictures in layer 0, where a method that prunes inside the language model cannot touch
    it. What has been learned above the barrier stays there when it falls.
    """

    def __init__(self, net: Any, image: int, steps: int) -> None:
        self.until, self.image, self.mask = 3 * steps // 4, image, torch.empty(0)
        self.handles = [
            layer.register_forward_pre_hook(self._bar, with_kwargs=True)
            for layer in net.model.language_model.layers[:READ]
        ]

    def prepare(self, ids: Tensor, step: int) -> None:
        """Masks for a batch of token ids [B, L], as long as the barrier stands."""
        if step >= self.until:
            for handle in self.handles:
                handle.remove()
            return
        picture = ids == self.image
        causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        allowed = causal & ~(~picture[:, :, None] & picture[:, None, :])
        self.mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]

    def _bar(self, _: nn.Module, args: object, kwargs: dict[str, object]) -> tuple[object, dict[str, object]]:
        return args, {**kwargs, "attention_mask": self.mask}
