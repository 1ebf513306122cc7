"""The head in tiles compared with the plain method: time and peak memory of forward + backward, including entropy.

    python benchmarks/logprobs.py                       # full size; the plain method gets as many positions as fit
    python benchmarks/logprobs.py --positions 1024      # a small run

Both methods get the same hidden states `[N, 896]`, head `[151936, 896]` and loss, a weighted sum of log-probabilities
and entropies. Repeats are interleaved and times are medians. Peak memory is the process's peak (resident memory on CPU,
allocated bytes on GPU) minus the memory before the call; it includes both gradients (head: 0.54 GB). It is compared
with the size of the plain method's logits, `positions x vocabulary x 4` bytes, which is only one of its arrays.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import memory_peak
import torch
from timing import take_turns
from torch import Tensor

from aspo_rllib.model.logprobs import linear_logprobs, token_logprobs

PLAIN_ARRAYS = 6  # arrays of the size of the logits at the peak of the plain method, which must fit into memory


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The plain method, which the tiles replace."""
    return token_logprobs(torch.nn.functional.linear(hidden, weight), targets)


def forward_backward(method: Callable, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[float, int]:
    """Seconds, and peak bytes above those resident before, of one forward and backward pass."""
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    reset_peak(hidden.device)
    before, start = resident(hidden.device), time.perf_counter()
    logprobs, entropy = method(hidden, weight, targets)
    (logprobs * torch.linspace(-1, 1, len(logprobs), device=logprobs.device) + 0.01 * entropy).sum().backward()
    del logprobs, entropy
    if hidden.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, peak(hidden.device) - before


def reset_peak(device: torch.device) -> None:
    """Reset the peak."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        memory_peak.reset_peak()


def resident(device: torch.device) -> int:
    """Bytes in use now."""
    return torch.cuda.memory_allocated() if device.type == "cuda" else memory_peak.resident_bytes()


def peak(device: torch.device) -> int:
    """The largest number of bytes in use since `reset_peak`."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else memory_peak.peak_bytes()


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    with open("/proc/meminfo") as info:
        return next(int(line.split()[1]) * 1024 for line in info if line.startswith("MemAvailable:"))


def interleaved(methods: dict[str, Callable], inputs: tuple, repeats: int) -> dict[str, tuple[float, int]]:
    """Median seconds and largest peak of each method. Repeats are interleaved, after a warm-up."""
    runs = take_turns({name: partial(forward_backward, method, *inputs) for name, method in methods.items()}, repeats)
    return {n: (statistics.median(t for t, _ in r), max(m for _, m in r)) for n, r in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=8192)
    parser.add_argument("--plain-positions", type=int, help="positions of the plain method; default: as many as fit")
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)

    torch.manual_seed(0)
    hidden = torch.randn(args.positions, args.hidden, device=device).to(dtype)
    weight = (torch.randn(args.vocabulary, args.hidden, device=device) * args.hidden**-0.5).to(dtype)
    targets = torch.randint(args.vocabulary, (args.positions,), device=device)

    row_bytes = args.vocabulary * 4
    fitting = int(0.9 * free_bytes(device)) // (PLAIN_ARRAYS * row_bytes) // 256 * 256
    both = min(args.positions, args.plain_positions or fitting)
    both_ways = {"plain": plain, "tiles": linear_logprobs}
    measured = interleaved(both_ways, (hidden[:both], weight, targets[:both]), args.repeats)
    rows = [(name, both, *result) for name, result in measured.items()]
    if both < args.positions:
        (full,) = interleaved({"tiles": linear_logprobs}, (hidden, weight, targets), args.repeats).values()
        rows.append(("tiles", args.positions, *full))

    per_position = measured["plain"][0] / both
    print(f"{device.type}, {args.dtype}, {torch.get_num_threads()} thread(s), hidden {args.hidden}, ", end="")
    print(f"vocabulary {args.vocabulary}, median of {args.repeats}")
    print(f"{'way':6} {'positions':>9} {'seconds':>8} {'time / plain':>13} {'peak MB':>8} {'peak / logits':>14}")
    for name, positions, seconds, peak_bytes in rows:
        time_ratio, memory_ratio = seconds / positions / per_position, peak_bytes / (positions * row_bytes)
        print(f"{name:6} {positions:9} {seconds:8.2f} {time_ratio:13.2f} {peak_bytes / 1e6:8.0f} {memory_ratio:14.3f}")


if __name__ == "__main__":
    main()
