"""The engine that generates with vLLM.

vLLM runs inside the calling process, so that no child process can be lost and weights can be replaced between two
steps. Only this module, `vllm_weights` and `weights.vllm_transfer` import vLLM. This one does so when an engine is
created, so that a driver or a learner does not need vLLM.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig

from aspo_rllib.config.vllm_environment import prepare_vllm
from aspo_rllib.model.checkpoint_names import CheckpointNames
from aspo_rllib.model.layers import has_attention_only
from aspo_rllib.model.loading import load_headers
from aspo_rllib.model.lora import MAX_RANK, max_rank, write_adapters
from aspo_rllib.names import nearest
from aspo_rllib.rollout.engines.engine import Completion, Engine
from aspo_rllib.rollout.engines.vllm_weights import WeightLoader

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

# The LoRA ranks that vLLM has buffers for.
_LORA_BUFFERS = (1, 8, 16, 32, 64, 128, 256, 320, MAX_RANK)


class VLLMEngine(Engine):
    """An engine that generates with vLLM.

    model: folder or hub id of a Hugging Face causal LM.
    dtype: "float32" or "bfloat16"; the checkpoint's dtype is never used as a default.
    max_model_len: prompt + completion tokens of the longest request.
    seed: seed of requests that are submitted without their own seed. On CPUs, requests of hybrid models (attention and
        another kind of layer) have no seed of their own.
    lora: keywords of peft.LoraConfig if the engine gets adapters; None if it gets all weights. On CPUs vLLM gathers the
        adapters again for every token: a tiny model samples 2.5 times slower with adapters.
    can_sleep: whether `sleep` will be called; GPUs only.
    transfer_backend: the name of the vLLM weight-transfer engine that `join_transfer` sets up; None: no transfer.
    finds_texts: whether requests may have a `stop`, for which vLLM needs the model's tokenizer.
    engine_kwargs: further arguments of `vllm.LLM`.
    batch_invariant: whether GPU kernels must give a request the same numbers whatever else runs.
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
        lora: dict[str, Any] | None = None,
        can_sleep: bool = False,
        transfer_backend: str | None = None,
        finds_texts: bool = False,
        engine_kwargs: dict[str, Any] | None = None,
        batch_invariant: bool = False,
    ):
        prepare_vllm(batch_invariant=batch_invariant)
        if not torch.cuda.is_available():
            # For small CPU models, compilation takes longer than it saves.
            os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
        warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
        from vllm import LLM, SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        on_gpu = torch.cuda.is_available()
        # vLLM needs chunked prefill for hybrid models. It then rewinds the generator of a request with a seed, which
        # CPU generators do not support: on CPUs only hybrids have it, and their requests take no seed.
        chunked = on_gpu or not has_attention_only(
            AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
        )
        self._takes_seeds = on_gpu or not chunked
        self._sampling_params = SamplingParams
        self._final_only = RequestOutputKind.FINAL_ONLY
        self._lora_request = LoRARequest
        self._lora = lora
        self._adapters: LoRARequest | None = None  # the adapters of all requests that are submitted
        self._llm = LLM(
            model=model,
            dtype=dtype,
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            kv_cache_memory_bytes=kv_cache_memory_bytes,
            gpu_memory_utilization=gpu_memory_utilization,
            tensor_parallel_size=tensor_parallel_size,
            # By default vLLM would use its Ray executor inside a placement group.
            distributed_executor_backend="uni" if tensor_parallel_size == 1 else "mp",
            seed=seed,
            trust_remote_code=trust_remote_code,
            load_format="safetensors",  # never a pickle
            skip_tokenizer_init=not finds_texts,
            generation_config="vllm",
            # The logprobs of the distribution that is sampled from, after temperature and top_p.
            logprobs_mode="processed_logprobs",
            worker_extension_cls=f"{WeightLoader.__module__}.{WeightLoader.__name__}",
            disable_log_stats=True,
            use_tqdm_on_load=False,
            enable_chunked_prefill=chunked,
            enable_sleep_mode=can_sleep,
            weight_transfer_config=None if transfer_backend is None else {"backend": transfer_backend},
            **_lora_options(lora),
            **(engine_kwargs or {}),
        )
        self._llm.collective_rpc("skip_tied_names")
        self._headers = partial(load_headers, model, trust_remote_code=trust_remote_code)
        self._checkpoint_names: CheckpointNames | None = None  # made from the first weights

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
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        stop: Sequence[str] = (),
    ) -> None:
        assert not self._llm.llm_engine.is_sleeping()
        params = self._sampling_params(
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            stop_token_ids=list(stop_token_ids),
            ignore_eos=True,  # otherwise the end token of the model's config also stops it
            seed=seed if self._takes_seeds else None,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            stop=list(stop) or None,
            logprobs=0,
            flat_logprobs=True,
            detokenize=bool(stop),
            skip_special_tokens=False,  # a stop text may be that of a special token
            output_kind=self._final_only,
            skip_clone=True,  # a deep copy per request takes as long as ten tokens of a small model
        )
        self._llm.llm_engine.add_request(
            request_id, {"prompt_token_ids": prompt_ids.tolist()}, params, lora_request=self._adapters
        )

    def step(self) -> list[Completion]:
        return [self._completion(out) for out in self._llm.llm_engine.step() if out.finished]

    @property
    def busy(self) -> bool:
        return bool(self._llm.llm_engine.has_unfinished_requests())

    def abort(self, request_ids: Iterable[str]) -> None:
        self._llm.llm_engine.abort_request(list(request_ids))

    # ---- weights ---------------------------------------------------------------------------------------------

    def load_weights(self, named_tensors: list[tuple[str, torch.Tensor]]) -> None:
        self._wake("weights")
        self._llm.collective_rpc("load", args=(self._as_in_checkpoint(named_tensors),))
        self._wake("kv_cache")
        self._forget_prefixes()

    def _as_in_checkpoint(self, named_tensors: list[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
        if self._checkpoint_names is None:
            self._checkpoint_names = CheckpointNames(self._headers(), named_tensors)
        return list(self._checkpoint_names.convert(named_tensors))

    def weight_errors(self, named_tensors: list[tuple[str, torch.Tensor]]) -> dict[str, float]:
        converted = self._as_in_checkpoint(named_tensors)
        errors: list[dict[str, float]] = self._llm.collective_rpc("weight_errors", args=(converted,))
        return {name: error for worker in errors for name, error in worker.items()}

    def load_adapters(self, named_tensors: list[tuple[str, torch.Tensor]]) -> None:
        self._wake("weights")
        # vLLM loads adapters only from a folder. It has read them when add_lora returns.
        with tempfile.TemporaryDirectory(prefix="aspo-adapters-") as folder:
            assert self._lora is not None
            write_adapters(Path(folder), named_tensors, self._lora)
            loaded = self._llm.llm_engine.add_lora(self._lora_request("policy", 1, folder, load_inplace=True))
            assert loaded
        # This is a new request object: with load_inplace every engine step would read the folder again.
        self._adapters = self._lora_request("policy", 1, folder)
        self._wake("kv_cache")
        self._forget_prefixes()

    def sleep(self) -> None:
        assert not self.busy
        # Level 2 discards the weights, level 1 keeps them in host memory.
        self._llm.sleep(level=2 if self._lora is None else 1)

    def _wake(self, part: str) -> None:
        # The KV cache gets its memory last, after the temporary memory of loading was freed.
        if self._llm.llm_engine.is_sleeping():
            self._llm.wake_up([part])

    def join_transfer(self, init_info: dict[str, Any]) -> None:
        """Connect the engine's workers to the learner that sends. This replaces any earlier connection."""
        if hasattr(self._llm, "shutdown_weight_transfer_engine"):  # since vLLM 0.27
            self._llm.shutdown_weight_transfer_engine()
        self._llm.init_weight_transfer_engine({"init_info": init_info})

    def start_transfer(self) -> None:
        """Wake the engine and begin a transfer. Do not step it until `finish_transfer`: its weights are unusable."""
        self._wake("weights")
        self._llm.collective_rpc("before_loading")
        self._llm.start_weight_update()

    def receive(self, update_info: dict[str, Any]) -> None:
        """Receive a part of the weights from the learner; waits until it has arrived."""
        self._llm.update_weights({"update_info": update_info})

    def finish_transfer(self) -> None:
        """End the transfer after all weights were received."""
        self._llm.finish_weight_update()
        self._llm.collective_rpc("after_loading")
        self._wake("kv_cache")
        self._forget_prefixes()

    def _forget_prefixes(self) -> None:
        # The prefix cache has keys and values from the old weights.
        done = self._llm.reset_prefix_cache(reset_running_requests=True)
        assert done

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm

    @staticmethod
    def _completion(out: RequestOutput) -> Completion:
        sample = out.outputs[0]
        logprobs = np.asarray(sample.logprobs.logprobs, dtype=np.float32)
        assert len(logprobs) == len(sample.token_ids), (len(logprobs), len(sample.token_ids))
        return Completion(
            request_id=out.request_id,
            completion_ids=np.asarray(sample.token_ids, dtype=np.int32),
            sampler_logprobs=logprobs,
            finish_reason=sample.finish_reason,
        )


def check_argument_names(engine_kwargs: dict[str, Any]) -> None:
    """Raise ValueError for a name that is no argument of `vllm.LLM`. Imports vLLM."""
    prepare_vllm()
    from vllm import EngineArgs

    known = [field.name for field in dataclasses.fields(EngineArgs)]
    for name in engine_kwargs:
        if name not in known:
            hint = nearest(name, known) or f" Expected some of {', '.join(known)}."
            raise ValueError(f"engine_kwargs: {name!r} is no engine argument of the installed vLLM.{hint}")


def _lora_options(settings: dict[str, Any] | None) -> dict[str, Any]:
    """vLLM's options for one set of adapters, with the smallest LoRA buffers that are large enough."""
    if settings is None:
        return {}
    rank = max_rank(settings)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(size for size in _LORA_BUFFERS if size >= rank)}
