"""Log-probabilities and entropies from hidden states, with logits that are computed one tile at a time.

The logits of 8,192 completion positions and a vocabulary of 151,936 need 5 GB, and autograd would keep several times as
much. Here the forward pass runs over tiles of positions x vocabulary with a running log-sum-exp, and the backward pass
computes each tile again. torch's `linear_cross_entropy` and Liger's fused losses do this for losses whose gradient is
known in the forward pass. The gradient of a policy loss is not known there, and neither of them returns the entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Positions x vocabulary of one tile. On CPU a tile and its temporaries stay in the cache. On GPU a tile keeps the
# device busy, and the more positions it has, the less often the gradient of the hidden states is read and written.
TILES = {"cpu": (1024, 1024), "cuda": (16384, 8192)}


class LogitShape(NamedTuple):
    """How a model makes logits of its head's products: `cap * tanh(scale * product / cap)`, or `scale * product` if the
    cap is None.
    """

    scale: float = 1.0
    cap: float | None = None

    def at(self, temperature: float) -> LogitShape:
        """The shape of these logits divided by `temperature`, which divides scale and cap."""
        return LogitShape(self.scale / temperature, None if self.cap is None else self.cap / temperature)


class TileMath(NamedTuple):
    """Elementwise arithmetic on one tile of logits, forward and backward: see `_absorb` and `_grad_logits`."""

    absorb: Callable[..., None]
    grad_logits: Callable[..., Tensor]


def compiled_tile_math() -> TileMath:
    """`TILE_MATH` compiled for GPUs. It reads a tile once, but single operations read it ten times."""
    # dynamic=True, because the last tile of a row or column is smaller, and the number of positions differs.
    return TileMath(torch.compile(_absorb, dynamic=True), torch.compile(_grad_logits_in_one_pass, dynamic=True))


def token_logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution, the plain way: `[N, V]`, `[N]` -> `[N]`, `[N]`.

    The result of `linear_logprobs` must be the same.
    """
    logprobs = logits.float().log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, targets[:, None])[:, 0], entropy


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    shape: LogitShape = LogitShape(),  # noqa: B008  it is immutable
    tile_math: TileMath | None = None,
) -> tuple[Tensor, Tensor]:
    """`token_logprobs(logits / temperature, targets)`, differentiable, without the logits.

    hidden: `[N, D]`; weight: `[V, D]`, the language-model head; targets: `[N]` int64.
    shape: how the model makes logits of `hidden @ weight.T`.
    tile_math: None for `TILE_MATH`, or `compiled_tile_math()`.

    Returns log-probabilities and entropies, `[N]` float32, or float64 for float64 inputs. The operands of the matrix
    product are rounded to autocast's dtype if autocast is on, else to the head's dtype. The product is summed in
    float32, and all further arithmetic is in float32.
    """
    device_type = hidden.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else weight.dtype
    logprobs, entropy = _LinearLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, shape.at(temperature), dtype, tile_math or TILE_MATH
    )
    return logprobs, entropy


class _LinearLogprobs(torch.autograd.Function):
    """With the logits z at the temperature, and p = softmax(z), the derivatives are

    d logprob / dz_j = [j = target] - p_j,  d entropy / dz_j = -p_j (log p_j + entropy).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        shape: LogitShape,
        dtype: torch.dtype,
        tile_math: TileMath,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            lse, entropy, target_z = _forward_tiles(hidden.to(dtype), weight, targets, shape, tile_math.absorb)
        ctx.save_for_backward(hidden, weight, targets, lse, entropy)
        ctx.shape, ctx.dtype, ctx.grad_logits = shape, dtype, tile_math.grad_logits
        ctx.set_materialize_grads(False)  # no cost for an entropy that is not differentiated
        return target_z - lse, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        hidden, weight, targets, lse, entropy = ctx.saved_tensors
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(lse)
        x = hidden.to(ctx.dtype)
        rows, columns = TILES[hidden.device.type]
        grad_x = torch.zeros_like(x, dtype=lse.dtype) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None

        with torch.autocast(hidden.device.type, enabled=False):
            # The outer loop is over the vocabulary, so that each slice of the head's gradient is summed in float32 and
            # written once.
            for v in _slices(len(weight), columns):
                w = weight[v].to(ctx.dtype)
                grad_w = torch.zeros_like(w, dtype=lse.dtype) if grad_weight is not None else None
                for n in _slices(len(x), rows):
                    z = _matmul(x[n], w.T)
                    g_entropy = None if grad_entropy is None else grad_entropy[n]
                    g = ctx.grad_logits(
                        z,
                        ctx.shape,
                        grad_logprobs[n],
                        g_entropy,
                        lse[n],
                        entropy[n],
                        targets[n] - v.start,
                        x.dtype,
                    )
                    if grad_x is not None:
                        _add_matmul(grad_x[n], g, w)
                    if grad_w is not None:
                        _add_matmul(grad_w, g.T, x[n])
                if grad_weight is not None and grad_w is not None:
                    grad_weight[v] = grad_w
        return None if grad_x is None else grad_x.to(hidden.dtype), grad_weight, None, None, None, None


def _forward_tiles(
    x: Tensor, weight: Tensor, targets: Tensor, shape: LogitShape, absorb: Callable[..., None]
) -> tuple[Tensor, Tensor, Tensor]:
    """The log-sum-exp, the entropy and the target's value of z, the logits of x @ weight.T, `[N]` each."""
    rows, columns = TILES[x.device.type]
    real = torch.promote_types(x.dtype, torch.float32)
    # Running values over tiles: the largest z, and the sums of e and e * d, where d = z - largest and e = exp(d). The
    # largest z starts as the lowest finite number and not as -inf, because the first tile multiplies it by a sum of 0.
    largest = x.new_full((len(x),), torch.finfo(real).min, dtype=real)
    sum_e, sum_ed, target_z = (torch.zeros_like(largest) for _ in range(3))
    for v in _slices(len(weight), columns):
        w = weight[v].to(x.dtype)
        for n in _slices(len(x), rows):
            z = _matmul(x[n], w.T)
            absorb(z, shape, targets[n] - v.start, largest[n], sum_e[n], sum_ed[n], target_z[n])
    log_sum = sum_e.log()
    return largest + log_sum, log_sum - sum_ed / sum_e, target_z


def _absorb(
    z: Tensor, shape: LogitShape, offsets: Tensor, largest: Tensor, sum_e: Tensor, sum_ed: Tensor, target_z: Tensor
) -> None:
    """Add a tile of products to the running values, in place.

    offsets: the column of the target relative to the tile; it may be outside of the tile.
    """
    z = _shaped(z, shape)
    inside, column = _locate(offsets, z)
    target_z += z.gather(1, column)[:, 0] * inside
    top = torch.maximum(largest, z.amax(1))
    d = z.sub_(top[:, None])
    e = d.exp()
    shift = largest - top
    scale = shift.exp()
    sum_ed.copy_(scale * (sum_ed + shift * sum_e))
    sum_e.copy_(scale * sum_e + e.sum(1))
    sum_ed += e.mul_(d).sum(1)
    largest.copy_(top)


def _grad_logits(
    z: Tensor,
    shape: LogitShape,
    grad_logprobs: Tensor,
    grad_entropy: Tensor | None,
    lse: Tensor,
    entropy: Tensor,
    offsets: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """The gradient of the loss with respect to a tile of products z, in `dtype`. Overwrites z."""
    shaped = _shaped(z, shape, out=z)
    slope = _slope(shaped, shape)
    grad = _grad_without_target(shaped, grad_logprobs, grad_entropy, lse, entropy)
    inside, column = _locate(offsets, z)
    grad.scatter_add_(1, column, (grad_logprobs * inside)[:, None])
    return grad.mul_(slope).to(dtype)


def _grad_logits_in_one_pass(
    z: Tensor,
    shape: LogitShape,
    grad_logprobs: Tensor,
    grad_entropy: Tensor | None,
    lse: Tensor,
    entropy: Tensor,
    offsets: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """`_grad_logits` for the compiler, which would need more kernels for the scatter and for in-place changes of z."""
    shaped = _shaped(z, shape)
    slope = _slope(shaped, shape)
    grad = _grad_without_target(shaped, grad_logprobs, grad_entropy, lse, entropy)
    at_target = torch.arange(z.shape[1], device=z.device) == offsets[:, None]
    return ((grad + torch.where(at_target, grad_logprobs[:, None], 0.0)) * slope).to(dtype)


def _shaped(product: Tensor, shape: LogitShape, out: Tensor | None = None) -> Tensor:
    """The logits of a tile of products, in new memory or in `out`."""
    if shape.cap is None:
        return torch.mul(product, shape.scale, out=out)
    return torch.mul(product, shape.scale / shape.cap, out=out).tanh_().mul_(shape.cap)


def _slope(logits: Tensor, shape: LogitShape) -> Tensor | float:
    """The derivative of `_shaped`, from its result."""
    if shape.cap is None:
        return shape.scale
    return (logits * (1 / shape.cap)).square_().neg_().add_(1.0).mul_(shape.scale)


def _grad_without_target(
    z: Tensor, grad_logprobs: Tensor, grad_entropy: Tensor | None, lse: Tensor, entropy: Tensor
) -> Tensor:
    """The part of the gradient that is the same for the target and all other logits. Overwrites z."""
    logp = z.sub_(lse[:, None])
    p = logp.exp()
    if grad_entropy is None:
        return p.mul_(-grad_logprobs[:, None])
    return p.mul_(logp.add_(entropy[:, None]).mul_(-grad_entropy[:, None]).sub_(grad_logprobs[:, None]))


TILE_MATH = TileMath(_absorb, _grad_logits)


def _locate(offsets: Tensor, tile: Tensor) -> tuple[Tensor, Tensor]:
    """Which targets are in the tile, `[N]`, and a valid column for each, `[N, 1]`. Nothing is copied to the host."""
    inside = (offsets >= 0) & (offsets < tile.shape[1])
    return inside, offsets.clamp(0, tile.shape[1] - 1)[:, None]


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, or in float64 for float64 operands. Logits in bfloat16 would be wrong by up to 0.1 nats."""
    if a.dtype.itemsize >= 4:
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def _add_matmul(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, in float32."""
    if a.dtype.itemsize >= 4:
        total.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total += _matmul(a, b)
