"""Closed forms for the matrix-product FLOPs of a run: 2 per multiply-add.

Independent of torch's counter, which the tests compare them with. Attention counts as dense over what is visible
(a causal mask halves what a kernel may skip, not what is counted), as in the published formulas; norms, RoPE and other
elementwise work are left out, as torch's counter leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.accounting.dims import Dims


def token_flops(d: Dims) -> int:
    """One token through the linear layers of one decoder layer: q, k, v, o and the gated MLP."""
    width = d.heads * d.head_dim
    return 2 * d.hidden * (2 * width + 2 * d.kv_heads * d.head_dim + 3 * d.mlp)


def head_flops(d: Dims) -> int:
    """Logits of one position."""
    return 2 * d.hidden * d.vocab


def prefill_flops(d: Dims, lengths: Sequence[int]) -> int:
    """A prompt whose layer k sees `lengths[k]` tokens, and its first logits."""
    attention = 4 * d.heads * d.head_dim
    return sum(n * token_flops(d) + attention * n * n for n in lengths) + head_flops(d)


def decode_flops(d: Dims, steps: int, keys_read: int) -> int:
    """`steps` decode steps that read `keys_read` keys over all layers and steps, the new tokens' own included."""
    return steps * (d.depth * token_flops(d) + head_flops(d)) + 4 * d.heads * d.head_dim * keys_read


def keys_read(lengths: Sequence[int], steps: int) -> int:
    """Keys read by `steps` decode steps after a prefill that left `lengths[k]` entries in layer k's cache."""
    return steps * sum(lengths) + len(lengths) * steps * (steps + 1) // 2


def project_flops(d: Dims, units: int) -> int:
    """The projector on the tower tokens behind `units` visual tokens."""
    return 2 * units * (d.unit * d.tower_hidden * d.merger_hidden + d.merger_hidden * d.hidden)


def tower_layer_flops(d: Dims, p: int) -> int:
    """One tower layer on p tokens of one crop."""
    w = d.tower_hidden
    return 2 * p * (4 * w * w + d.tower_mlp_products * w * d.tower_mlp) + 4 * p * p * w


def vision_flops(d: Dims, tower_tokens: Sequence[int]) -> int:
    """One crop; `tower_tokens` are the tokens entering each tower layer, then those leaving the last one."""
    layers = sum(tower_layer_flops(d, p) for p in tower_tokens[:-1])
    patches = [p - d.tower_cls for p in tower_tokens]
    units = [patches[-1] // d.unit, *(patches[i] // d.unit for i in d.deepstack)]
    return 2 * patches[0] * d.patch_inputs * d.tower_hidden + layers + project_flops(d, sum(units))
