"""How the tiny language models start."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


@torch.no_grad()
def mimetic(net: Any) -> None:
    """Start attention as "look at what resembles you, and copy it" (Trockman and Kolter, arXiv 2305.09828).

    Queries start equal to the keys of their group, the output projection as the transpose of the values': a word then
    looks at the places that name it from the first step on. Places are as loud as contents.
    """
    for name, parameter in net.named_parameters():
        if "pos_embed" in name or "position_embedding" in name or "class_embedding" in name or "cls_token" in name:
            nn.init.normal_(parameter, std=0.5)
    for layer in net.model.language_model.layers:
        attention = layer.self_attn
        d, group = attention.head_dim, attention.num_key_value_groups
        nn.init.normal_(attention.k_proj.weight, std=attention.k_proj.in_features**-0.5)
        keys = attention.k_proj.weight.view(-1, d, attention.k_proj.in_features)
        noise = 0.3 * attention.q_proj.weight
        attention.q_proj.weight.copy_(keys.repeat_interleave(group, 0).flatten(0, 1) + noise)
        values = attention.v_proj.weight.view(-1, d, attention.v_proj.in_features)
        attention.o_proj.weight.copy_(
            2 * values.repeat_interleave(group, 0).flatten(0, 1).T + 0.3 * attention.o_proj.weight
        )


@torch.no_grad()
def renew(net: Any) -> None:
    """Let the second half of the last layer's heads attend as the first does, and start anew what they copy.

    While words do not know their cell yet, copying it is wrong, and the last layer unlearns it. For colours (in LLaVA
    pips, too) values and output may both come near zero, a saddle that a training did not leave in 2,000 steps.
    """
    attention = net.model.language_model.layers[-1].self_attn
    for projection in (attention.q_proj, attention.k_proj):
        first, second = projection.weight.chunk(2)
        second.copy_(first)
    values = attention.v_proj.weight.chunk(2)[1]
    nn.init.normal_(values, std=0.1)
    shared = values.view(-1, attention.head_dim, values.shape[1]).repeat_interleave(attention.num_key_value_groups, 0)
    attention.o_proj.weight.chunk(2, dim=1)[1].copy_(2 * shared.flatten(0, 1).T)


@torch.no_grad()
def grow(net: Any, small: Any) -> None:
    """Compute what a model with narrower MLPs does (Net2Net, arXiv 1511.05641): further units add nothing yet."""
    old = small.state_dict()
    for name, parameter in net.state_dict().items():
        if name.endswith("down_proj.weight"):
            parameter.zero_()
        parameter[tuple(slice(n) for n in old[name].shape)] = old[name]
