"""The generation engine behind a narrow interface: submit, step, abort, load weights, close.

vLLM runs inside the calling process: no child process to lose, and weights can be swapped between two steps. This is
the only room that imports vLLM, and only when an engine is made, so that a driver or a learner needs none.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

# vLLM reads these when it is imported.
_VLLM_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


class WeightLoader:
    """vLLM worker extension: replaces all weights in place, between two engine steps."""

    def load(self, named_tensors: list[tuple[str, torch.Tensor]]) -> None:
        # reload_weights, not model.load_weights: it also rebuilds what the engine derived from the weights (packed
        # matrices, a tied lm_head's own copy), which would silently go stale.
        self.reload_weights(weights_iterator=iter(named_tensors))


@dataclass(frozen=True)
class Completion:
    """A finished request: tokens as sampled, `[T]` int32, and their log-probabilities, `[T]` float32."""

    request_id: str
    completion_ids: np.ndarray
    sampler_logprobs: np.ndarray
    finish_reason: str


class VLLMEngine:
    """A vLLM engine that samples token ids from token ids.

    model: folder or hub id of a Hugging Face causal LM.
    dtype: "float32" or "bfloat16"; never left to the checkpoint.
    max_model_len: prompt + completion tokens of the longest request.
    seed: for requests submitted without a seed of their own.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_model_len: int,
        max_num_seqs: int,
        kv_cache_memory_bytes: int | None,
        gpu_memory_utilization: float,
        tensor_parallel_size: int,
        seed: int,
        trust_remote_code: bool = False,
    ):
        os.environ.update(_VLLM_ENVIRONMENT)
        if not torch.cuda.is_available():
            # A cold compile cache costs more than it saves on small CPU models.
            os.environ["TORCH_COMPILE_DISABLE"] = "1"
        logging.getLogger("vllm").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
        from vllm import LLM, SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._sampling_params = SamplingParams
        self._final_only = RequestOutputKind.FINAL_ONLY
        self._llm = LLM(
            model=model,
            dtype=dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            kv_cache_memory_bytes=kv_cache_memory_bytes,
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
            # Inside a placement group vLLM would choose its Ray executor by itself.
            distributed_executor_backend="uni" if tensor_parallel_size == 1 else "mp",
            seed=seed,
            trust_remote_code=trust_remote_code,
            skip_tokenizer_init=True,
            generation_config="vllm",
            # The behaviour policy's logprobs: after temperature and top_p, not the raw ones.
            logprobs_mode="processed_logprobs",
            worker_extension_cls=f"{__name__}.{WeightLoader.__name__}",
            disable_log_stats=True,
            use_tqdm_on_load=False,
        )

    def submit(
        self,
        request_id: str,
        prompt_ids: np.ndarray,
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
        stop_token_ids: Sequence[int],
        seed: int | None = None,
    ) -> None:
        """Queue one completion of `prompt_ids`; `step` returns it when it is finished."""
        params = self._sampling_params(
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            stop_token_ids=list(stop_token_ids),
            seed=seed,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=self._final_only,
        )
        self._llm.llm_engine.add_request(request_id, {"prompt_token_ids": prompt_ids.tolist()}, params)

    def step(self) -> list[Completion]:
        """One engine step over all running requests; the completions that it finished."""
        return [self._completion(out) for out in self._llm.llm_engine.step() if out.finished]

    @property
    def busy(self) -> bool:
        """Whether any submitted request is unfinished."""
        return self._llm.llm_engine.has_unfinished_requests()

    def abort(self, request_ids: Iterable[str]) -> None:
        """Forget these requests; nothing is returned for them."""
        self._llm.llm_engine.abort_request(list(request_ids))

    def load_weights(self, named_tensors: list[tuple[str, torch.Tensor]]) -> None:
        """Replace all weights. The tensors are read until this returns: do not reuse their memory before."""
        self._llm.collective_rpc("load", args=(named_tensors,))
        # Cached prefixes hold keys and values of the old weights.
        assert self._llm.reset_prefix_cache(reset_running_requests=True)

    def close(self) -> None:
        """Free the engine and its memory."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm

    @staticmethod
    def _completion(out) -> Completion:
        sample = out.outputs[0]
        logprobs = np.asarray(sample.logprobs.logprobs, dtype=np.float32)
        assert len(logprobs) == len(sample.token_ids), (len(logprobs), len(sample.token_ids))
        return Completion(
            request_id=out.request_id,
            completion_ids=np.asarray(sample.token_ids, dtype=np.int32),
            sampler_logprobs=logprobs,
            finish_reason=sample.finish_reason,
        )
