"""Settings by the names of TRL, verl and transformers, with the setting here that does the same."""

from __future__ import annotations

from collections.abc import Mapping

_PASSES = "training(num_epochs=...) for passes over a batch; a run ends by Tune's stop={'training_iteration': ...}"

OTHER_NAMES: Mapping[str, str] = {
    # model, engine
    "model_id": "llm(model=...)",
    "model_name": "llm(model=...)",
    "model_name_or_path": "llm(model=...)",
    "model_path": "llm(model=...)",
    "peft_config": "llm(lora=...)",
    "lora_config": "llm(lora=...)",
    "max_prompt_length": "llm(max_prompt_tokens=...)",
    "use_vllm": "llm(engine=...)",
    "vllm_gpu_memory_utilization": "llm(gpu_memory_utilization=...)",
    "vllm_tensor_parallel_size": "llm(tensor_parallel_size=...)",
    "tensor_model_parallel_size": "llm(tensor_parallel_size=...)",
    "torch_dtype": "llm(dtype=...)",
    "bf16": "llm(dtype=...)",
    "enable_gradient_checkpointing": "llm(gradient_checkpointing=...)",
    "param_offload": "llm(cpu_offload=...)",
    # sampling
    "num_generations": "sampling(group_size=...)",
    "num_return_sequences": "sampling(group_size=...)",
    "n": "sampling(group_size=...)",
    "rollout.n": "sampling(group_size=...)",
    "rollout_n": "sampling(group_size=...)",
    "max_new_tokens": "sampling(max_completion_tokens=...)",
    "max_tokens": "sampling(max_completion_tokens=...)",
    "max_completion_length": "sampling(max_completion_tokens=...)",
    "max_response_length": "sampling(max_completion_tokens=...)",
    # loss
    "loss_type": "training(loss=...)",
    "loss_mode": "training(loss=...)",
    "loss_agg_mode": "training(aggregation=...)",
    "adv_estimator": "training(advantage=...)",
    "scale_rewards": "training(advantage=...), where 'dr_grpo' does not divide by the standard deviation",
    "norm_adv_by_std_in_grpo": "training(advantage=...), where 'dr_grpo' does not divide by the standard deviation",
    "beta": "training(kl_coef=...)",
    "kl_beta": "training(kl_coef=...)",
    "kl_coeff": "training(kl_coef=...)",
    "kl_loss_coef": "training(kl_coef=...)",
    "kl_loss_type": "training(kl_estimator=...)",
    "ref_model_sync_steps": "training(reference_reset_interval=...)",
    "entropy_coeff": "training(entropy_coef=...)",
    "epsilon": "training(clip_low=..., clip_high=...)",
    "epsilon_high": "training(clip_high=...)",
    "clip_param": "training(clip_low=..., clip_high=...)",
    "clip_ratio": "training(clip_low=..., clip_high=...)",
    "clip_ratio_low": "training(clip_low=...)",
    "clip_ratio_high": "training(clip_high=...)",
    "clip_ratio_c": "training(weight_cap=...)",
    "mask_truncated_completions": "training(truncated=...), with 'mask'",
    "vllm_importance_sampling_correction": "training(sampler_correction=...)",
    # optimization
    "learning_rate": "training(lr=...)",
    "max_grad_norm": "training(grad_clip=...)",
    "num_warmup_steps": "training(warmup_steps=...)",
    "generation_batch_size": "training(batch_prompts=...)",
    "rollout_batch_size": "training(batch_prompts=...)",
    "ppo_mini_batch_size": "training(minibatch_prompts=...)",
    "mini_batch_size": "training(minibatch_prompts=...)",
    "ppo_micro_batch_size": "training(max_tokens_per_microbatch=...)",
    "ppo_micro_batch_size_per_gpu": "training(max_tokens_per_microbatch=...)",
    "per_device_train_batch_size": "training(max_tokens_per_microbatch=...)",
    "gradient_accumulation_steps": "training(minibatch_prompts=...), which max_tokens_per_microbatch divides",
    "ppo_epochs": "training(num_epochs=...)",
    "num_iterations": "training(num_epochs=...)",
    "num_train_epochs": _PASSES,
    "total_epochs": _PASSES,
    "max_steps": _PASSES,
    # checkpoints
    "hf_save_interval": "checkpointing(export=...)",
    "save_only_model": "checkpointing(export=...)",
}
