"""Weight sync over the object store: bytes per second, compared with a plain copy of the same bytes.

    python benchmarks/sync.py                        # 71M parameters in float32
    python benchmarks/sync.py --layers 2 --repeats 3 # a small run

"publish" is the learner's part (gather, cast, put) and "fetch" a runner's part before loading; together they are the
transport. "load" is vLLM's own `reload_weights`, which unpacks and repacks every matrix on CPU. A copy is
`Tensor.copy_` between two warm buffers of the same size. Rounds are interleaved and results are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence

import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from timing import timed
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from aspo_rllib import TINY_MODEL, ASPOConfig
from aspo_rllib.rollout.engines.vllm_engine import VLLMEngine
from aspo_rllib.run.start_ray import start_ray
from aspo_rllib.weights import object_store
from envs.text_env import TextSpace


def save_model(folder: str, layers: int) -> None:
    config = Qwen3Config(
        vocab_size=16384,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_MODEL).save_pretrained(folder)


def one_round(learners, engine: VLLMEngine, buffers: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    """Seconds of each part of one sync, and of the copy."""
    copy_s, _ = timed(lambda: buffers[0].copy_(buffers[1]))
    learners._weights = None  # otherwise a version is exported only once
    publish_s, handle = timed(learners.weights)
    fetch_s, tensors = timed(lambda: object_store.fetch(handle))
    load_s, _ = timed(lambda: engine.load_weights(tensors))
    return {"copy": copy_s, "publish": publish_s, "fetch": fetch_s, "load": load_s}


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Print the table; returns its ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    start_ray("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, args.layers)
        config = ASPOConfig().environment("aspo/Arithmetic-v0").llm(model=folder).training(kl_coef=0.0)
        config.validate()
        learners = config.build_learner_group(spaces={DEFAULT_MODULE_ID: (TextSpace(), TextSpace())})
        engine = VLLMEngine(
            folder, dtype="float32", max_model_len=128, max_num_seqs=8, kv_cache_memory_bytes=1 << 26,
            gpu_memory_utilization=0.9, tensor_parallel_size=1, seed=0,
        )  # fmt: skip
        num_bytes = learners.weights().num_bytes
        buffers = torch.zeros(num_bytes // 4), torch.ones(num_bytes // 4)
        rounds = [one_round(learners, engine, buffers) for _ in range(args.repeats + 2)][2:]
        engine.close()
        learners.shutdown()
    ray.shutdown()

    seconds = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    seconds["transport"] = seconds["publish"] + seconds["fetch"]
    seconds["sync"] = seconds["transport"] + seconds["load"]
    print(f"{num_bytes / 1e6:.0f} MB")
    print(f"{'part':<10} {'ms':>8} {'GB/s':>6} {'speed / copy':>13}")
    ratios = {name: seconds["copy"] / s for name, s in seconds.items()}
    for name, s in seconds.items():
        print(f"{name:<10} {1e3 * s:>8.1f} {num_bytes / s / 1e9:>6.2f} {ratios[name]:>13.2f}")
    return ratios


if __name__ == "__main__":
    main()
