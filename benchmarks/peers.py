# SPDX-License-Identifier: Apache-2.0
"""The same work in TRL and Hugging Face transformers, on CPU in float32.

Only this benchmark needs them: `pip install -e '.[peers]'`. Both get a random
Qwen2 of the same shape and a tokenizer made here, so no network is needed. They
run as fast as we could make them: no recomputation in the backward pass, and
micro-batches of the fastest size (see Settings of engine.py). Completions have
the lengths of the workload: the stop token is suppressed before their ends.
TRL trains on groups whose rewards are alike, too: it has no dynamic sampling.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Any

from benchmarks.turns import Turns
from benchmarks.workload import PAD_ID, STOP_ID, Workload, given, words

os.environ["HF_HUB_OFFLINE"] = "1"


def make_model(model: dict[str, Any], positions: int) -> Any:
  """Returns a random Qwen2 of the shape of a `ModelConfig`."""
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.Qwen2Config(
    vocab_size=model["vocab_size"],
    hidden_size=model["d_model"],
    intermediate_size=model["d_mlp"],
    num_hidden_layers=model["n_layers"],
    num_attention_heads=model["n_heads"],
    num_key_value_heads=model["n_kv_heads"],
    head_dim=model["head_width"],
    max_position_embeddings=positions,
    tie_word_embeddings=model["tie_embeddings"],
    pad_token_id=PAD_ID,
    eos_token_id=STOP_ID,
    bos_token_id=None,
  )
  return transformers.Qwen2ForCausalLM(config).to(torch.float32)


def given_lengths(network: Any, work: Workload) -> Any:
  """Makes `generate` end row i of a batch at the length of branch i."""
  import torch
  import transformers

  length_B = torch.from_numpy(work.lengths.ravel())

  class Ends(transformers.LogitsProcessor):
    """Leaves only the stop token at the end, and all others before it."""

    def __init__(self, width):
      self.width = width

    def __call__(self, input_ids, scores):
      is_last_B = input_ids.shape[1] - self.width + 1 >= length_B
      is_stop_V = torch.arange(scores.shape[1]) == STOP_ID
      return scores.masked_fill(is_stop_V != is_last_B[:, None], -torch.inf)

  generate = network.generate

  def generate_to_ends(*args, input_ids, **options):
    ends = transformers.LogitsProcessorList([Ends(input_ids.shape[1])])
    return generate(
      *args, input_ids=input_ids, logits_processor=ends, **options
    )

  network.generate = generate_to_ends
  return network


def make_tokenizer(vocab_size: int) -> Any:
  """Returns a tokenizer of `workload.words` that splits at spaces."""
  import tokenizers
  import transformers

  every = words(vocab_size)
  table = {word: i for i, word in enumerate(every)}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(table, unk_token=every[PAD_ID])
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token=every[PAD_ID],
    eos_token=every[STOP_ID],
    padding_side="left",
  )


def run_trl(
  turns: Turns, model: dict[str, Any], work: Workload, settings: dict[str, Any]
) -> None:
  """Runs TRL's GRPOTrainer; each step is one generation and one update."""
  import datasets
  import torch
  import transformers
  import trl

  from srl_jax.rewards import difflib_ratio

  every = words(model["vocab_size"])
  made = given(work, model["vocab_size"])
  rows = [
    {
      "prompt": " ".join(every[i] for i in made.prompt(work, n, k)),
      "target": made.target_NK[n][k],
    }
    for n in range(work.trajectories)
    for k in range(work.steps)
  ]
  counted = {"sampled": 0}

  def reward(completions, target, completion_ids, **_):
    counted["sampled"] += sum(map(len, completion_ids))
    pairs = zip(completions, target, strict=True)
    return [difflib_ratio(*pair) for pair in pairs]

  class Told(transformers.TrainerCallback):
    """Waits for a turn before every step of the trainer."""

    running = False

    def on_step_begin(self, args, state, control, **_):
      self.report()
      self.running = turns.begin()
      if not self.running:
        raise _StopError

    def report(self):
      if self.running:
        turns.end(sampled=counted["sampled"], trained=counted["sampled"])
        counted["sampled"] = 0

  size = settings["batch"] or work.branches
  network = make_model(model, int(work.prompt_tokens[-1]) + work.new_tokens + 8)
  least = {"min_new_tokens": work.new_tokens}
  if work.fill < 1:
    network, least = given_lengths(network, work), {}
  with tempfile.TemporaryDirectory() as folder:
    trainer = trl.GRPOTrainer(
      network,
      reward,
      args=trl.GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=work.branches // size,
        num_generations=work.samples,
        max_completion_length=work.new_tokens,
        generation_kwargs=least,
        temperature=1.0,
        beta=0.0,
        loss_type="grpo",
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        max_steps=10**6,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
      ),
      train_dataset=datasets.Dataset.from_list(rows),
      processing_class=make_tokenizer(model["vocab_size"]),
      callbacks=[Told()],
    )
    turns.send(
      versions=f"TRL {trl.__version__}, transformers "
      f"{transformers.__version__}, torch {torch.__version__}",
      setting=f"batches of {size}, {torch.get_num_threads()} threads",
    )
    with contextlib.suppress(_StopError):
      trainer.train()


class _StopError(Exception):
  """Ends the trainer from inside a callback."""


def run_generate(
  turns: Turns, model: dict[str, Any], work: Workload, settings: dict[str, Any]
) -> None:
  """Samples with `generate` of transformers, all prompts in one batch."""
  import torch
  import transformers

  made = given(work, model["vocab_size"])
  prompts = [
    made.prompt(work, n, k)
    for n in range(work.trajectories)
    for k in range(work.steps)
    for _ in range(work.samples)
  ]
  width = max(map(len, prompts))
  ids = torch.full((len(prompts), width), PAD_ID)
  mask = torch.zeros_like(ids)
  for row, prompt in enumerate(prompts):
    ids[row, width - len(prompt) :] = torch.from_numpy(prompt).long()
    mask[row, width - len(prompt) :] = 1
  network = make_model(model, width + work.new_tokens).eval()
  config = transformers.GenerationConfig(
    do_sample=True,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    max_new_tokens=work.new_tokens,
    min_new_tokens=work.new_tokens,
    pad_token_id=PAD_ID,
    eos_token_id=STOP_ID,
  )
  turns.send(
    versions=f"transformers {transformers.__version__}, torch "
    f"{torch.__version__}",
    setting=f"{torch.get_num_threads()} threads",
  )
  while turns.begin():
    with torch.inference_mode():
      out = network.generate(
        input_ids=ids, attention_mask=mask, generation_config=config
      )
    turns.end(sampled=out[:, width:].numel(), trained=0)


RUN = {"trl": run_trl, "hf": run_generate}
