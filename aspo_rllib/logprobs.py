"""Log-probabilities and entropies straight from hidden states: the only room in which logits exist, a tile at a time.

8,192 completion positions and a vocabulary of 151,936 need 5 GB for their logits alone, and several times that for what
autograd keeps of them. Here the forward pass runs over tiles of positions x vocabulary with a running log-sum-exp, and
the backward pass makes each tile again. torch's `linear_cross_entropy` and Liger's fused losses do the same for a loss
whose gradient is known in the forward pass; a policy gradient's is not, and neither gives the entropy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Positions x vocabulary of one tile. On CPU a tile and its temporaries stay in the cache; on GPU it fills the device.
TILES = {"cpu": (1024, 1024), "cuda": (4096, 8192)}


def token_logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution, the plain way: `[N, V]`, `[N]` -> `[N]`, `[N]`.

    What `linear_logprobs` must agree with.
    """
    logprobs = logits.float().log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], entropy


def linear_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """`token_logprobs(hidden @ weight.T / temperature, targets)`, differentiable, without the logits.

    hidden: `[N, D]`; weight: `[V, D]`, the language-model head; targets: `[N]` int64.
    Returns log-probabilities and entropies, `[N]` float32 (float64 from float64 inputs). Operands are rounded to the
    head's type, or autocast's where that is on; products are summed, and everything after them computed, in float32.
    """
    device_type = hidden.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else weight.dtype
    logprobs, entropy = _LinearLogprobs.apply(hidden, weight, targets, temperature, dtype)  # type: ignore[no-untyped-call]
    return logprobs, entropy


class _LinearLogprobs(torch.autograd.Function):
    """With z = logits / temperature and p = softmax(z):
    d logprob / dz_j = [j = target] - p_j,  d entropy / dz_j = -p_j (log p_j + entropy).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            lse, entropy, target_z = _forward_tiles(hidden.to(dtype), weight, targets, temperature)
        ctx.save_for_backward(hidden, weight, targets, lse, entropy)
        ctx.temperature, ctx.dtype = temperature, dtype
        ctx.set_materialize_grads(False)  # an entropy that nobody differentiates costs nothing
        return target_z - lse, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, lse, entropy = ctx.saved_tensors
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(lse)
        x = hidden.to(ctx.dtype)
        rows, columns = TILES[hidden.device.type]
        grad_x = torch.zeros_like(x, dtype=lse.dtype) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None

        with torch.autocast(hidden.device.type, enabled=False):
            # Vocabulary outside: each slice of the head's gradient is summed up in float32 and written once.
            for v in _slices(len(weight), columns):
                w = weight[v].to(ctx.dtype)
                grad_w = torch.zeros_like(w, dtype=lse.dtype) if grad_weight is not None else None
                for n in _slices(len(x), rows):
                    z = _matmul(x[n], w.T).mul_(1 / ctx.temperature)
                    g_entropy = None if grad_entropy is None else grad_entropy[n]
                    g = _grad_z(z, grad_logprobs[n], g_entropy, lse[n], entropy[n], targets[n] - v.start)
                    g = g.mul_(1 / ctx.temperature).to(ctx.dtype)
                    if grad_x is not None:
                        _add_matmul(grad_x[n], g, w)
                    if grad_w is not None:
                        _add_matmul(grad_w, g.T, x[n])
                if grad_weight is not None and grad_w is not None:
                    grad_weight[v] = grad_w
        return None if grad_x is None else grad_x.to(hidden.dtype), grad_weight, None, None, None


def _forward_tiles(x: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """log-sum-exp, entropy and target's value of z = x @ weight.T / temperature, `[N]` each."""
    rows, columns = TILES[x.device.type]
    real = torch.promote_types(x.dtype, torch.float32)
    # Over the tiles seen so far: the largest z, the sums of e and e * d, where d = z - largest and e = exp(d).
    # The lowest finite number, not -inf: the first tile multiplies it by a sum of 0.
    largest = x.new_full((len(x),), torch.finfo(real).min, dtype=real)
    sum_e, sum_ed, target_z = (torch.zeros_like(largest) for _ in range(3))
    for v in _slices(len(weight), columns):
        w = weight[v].to(x.dtype)
        for n in _slices(len(x), rows):
            z = _matmul(x[n], w.T).mul_(1 / temperature)
            inside, column = _locate(targets[n] - v.start, z)
            target_z[n] += z.gather(1, column)[:, 0] * inside
            top = torch.maximum(largest[n], z.amax(1))
            d = z.sub_(top[:, None])
            e = d.exp()
            shift = largest[n] - top
            scale = shift.exp()
            sum_ed[n] = scale * (sum_ed[n] + shift * sum_e[n])
            sum_e[n] = scale * sum_e[n] + e.sum(1)
            sum_ed[n] += e.mul_(d).sum(1)
            largest[n] = top
    log_sum = sum_e.log()
    return largest + log_sum, log_sum - sum_ed / sum_e, target_z


def _grad_z(
    z: Tensor, grad_logprobs: Tensor, grad_entropy: Tensor | None, lse: Tensor, entropy: Tensor, offsets: Tensor
) -> Tensor:
    """A tile's gradient with respect to z. Destroys z. offsets: target's column in the tile, or outside of it."""
    logp = z.sub_(lse[:, None])
    p = logp.exp()
    inside, column = _locate(offsets, z)
    if grad_entropy is None:
        grad = p.mul_(-grad_logprobs[:, None])
    else:
        grad = p.mul_(logp.add_(entropy[:, None]).mul_(-grad_entropy[:, None]).sub_(grad_logprobs[:, None]))
    return grad.scatter_add_(1, column, (grad_logprobs * inside)[:, None])


def _locate(offsets: Tensor, tile: Tensor) -> tuple[Tensor, Tensor]:
    """Which targets lie in the tile `[N]`, and a legal column for each `[N, 1]`, without a copy to the host."""
    inside = (offsets >= 0) & (offsets < tile.shape[1])
    return inside, offsets.clamp(0, tile.shape[1] - 1)[:, None]


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, summed and returned in float32 (float64 stays): rounding logits to bfloat16 costs up to 0.1 nats."""
    if a.dtype.itemsize >= 4:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _add_matmul(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, in float32."""
    if a.dtype.itemsize >= 4:
        total.addmm_(a, b)
    else:
        total += _matmul(a, b)
