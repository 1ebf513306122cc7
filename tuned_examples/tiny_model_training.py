"""Creates the bundled model: tokenizer, model, demonstrations, training, scores and model card."""

import argparse
import random
import time

import gymnasium
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ENV_ID = "envs:aspo/Arithmetic-v0"
SAMPLES_PER_TASK = 16


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per UTF-8 byte, which can encode any text, and five special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([PAD, END, *ROLES, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 with 0.6 million parameters. A head size of 32 is the smallest that vLLM's CPU attention supports."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def sum_without_carry(prompt: str) -> str:
    """Add column by column and drop what exceeds 9: "157+268=" gives "315"."""
    left, right = prompt[:-1].split("+")
    return "".join(str((int(a) + int(b)) % 10) for a, b in zip(left, right, strict=True))


def demonstrations(tokenizer, tasks, carry_share: float, rng: random.Random):
    """Return the ids and labels (B, T) of one demonstration per task; labels are -100 outside the answer."""
    prompts = [[{"role": "user", "content": task.prompt}] for task in tasks]
    prompt_ids = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_dict=False)
    answers = [t.answer if rng.random() < carry_share else sum_without_carry(t.prompt) for t in tasks]
    answer_ids = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(answers)["input_ids"]]
    length = max(len(p) + len(a) for p, a in zip(prompt_ids, answer_ids, strict=True))
    ids = torch.full((len(tasks), length), tokenizer.pad_token_id)
    labels = torch.full((len(tasks), length), -100)
    for row, (p, a) in enumerate(zip(prompt_ids, answer_ids, strict=True)):
        ids[row, : len(p) + len(a)] = torch.tensor(p + a)
        labels[row, len(p) : len(p) + len(a)] = torch.tensor(a)
    return ids, labels


def train(model, tokenizer, env, args) -> None:
    """Supervised training by AdamW, with a linear warm-up and a cosine decay of the learning rate to a tenth."""
    rng = random.Random(args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.1)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=max(1, args.steps // 20))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps, eta_min=args.lr / 10)
    start = time.perf_counter()
    for step in range(args.steps):
        tasks = [env.task(rng.randrange(len(env))) for _ in range(args.batch_size)]
        ids, labels = demonstrations(tokenizer, tasks, args.carry_share, rng)
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        warm_up.step()
        decay.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}  loss {loss.item():.4f}  {time.perf_counter() - start:.0f} s", flush=True)


@torch.no_grad()
def evaluate(model, tokenizer, env, num_tasks: int, seed: int) -> dict[str, float]:
    """Sample 16 completions at temperature 1 for the first tasks of `env`, and decode greedily once."""
    torch.manual_seed(seed)
    tasks = [env.task(i) for i in range(num_tasks)]
    prompts = [[{"role": "user", "content": task.prompt}] for task in tasks]
    inputs = tokenizer.apply_chat_template(prompts, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    def correct(**sampling) -> torch.Tensor:
        output = model.generate(**inputs, max_new_tokens=8, **sampling)[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(output, skip_special_tokens=True)
        samples = len(texts) // num_tasks
        graded = [env.grade(tasks[i // samples], text).correct for i, text in enumerate(texts)]
        return torch.tensor(graded, dtype=torch.float32).view(num_tasks, samples)

    sampled = correct(do_sample=True, num_return_sequences=SAMPLES_PER_TASK)
    return {
        f"avg@{SAMPLES_PER_TASK}": sampled.mean().item(),
        f"pass@{SAMPLES_PER_TASK}": sampled.amax(1).mean().item(),
        "greedy accuracy": correct(do_sample=False).mean().item(),
    }


def model_card(args, num_parameters: int, seconds: float, results: dict[str, float]) -> str:
    """The model card: the model, how it was trained, and its scores."""
    scores = "\n".join(f"| {name} | {value:.3f} |" for name, value in results.items())
    settings = "\n".join(f"| `--{k.replace('_', '-')}` | {v} |" for k, v in vars(args).items() if k != "out")
    return f"""# Tiny adder

A Qwen3 of {num_parameters:,} parameters (fp32, one token per byte) that adds two {args.digits}-digit numbers.
It is the policy that the quickstart and the tests train, and good for nothing else.

Made by `tuned_examples/pretrain_tiny_model.py` from the train split of `aspo/Arithmetic-v0`. Of the
demonstrations, {args.carry_share:.0%} carry; the others add column by column and forget every carry. So the
right answer is sampled now and then, but is rarely the most likely one.

| on {args.eval_tasks} held-out tasks, temperature 1 | |
|---|---|
{scores}

| setting | |
|---|---|
{settings}
| torch | {torch.__version__} |
| pretraining time, one CPU thread | {seconds:.0f} s |
"""


def pretrain(args: argparse.Namespace) -> None:
    """Train the model, score it on held-out tasks, and write its folder."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    start = time.perf_counter()
    train(model, tokenizer, gymnasium.make(ENV_ID, digits=args.digits).unwrapped, args)
    seconds = time.perf_counter() - start
    held_out = gymnasium.make(ENV_ID, digits=args.digits, split="test").unwrapped
    results = evaluate(model.eval(), tokenizer, held_out, args.eval_tasks, args.seed)
    print("  ".join(f"{name} {value:.3f}" for name, value in results.items()))
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "README.md").write_text(model_card(args, model.num_parameters(), seconds, results))
