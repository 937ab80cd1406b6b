# SPDX-License-Identifier: Apache-2.0
"""Samples whole answers, beside Hugging Face transformers' generate.

  python -m benchmarks.answers --weights=FOLDER --problems=FILE.jsonl

Both get the same prompts, 8 samples of each, end at the same stop tokens, and
are measured in tokens per second, because lengths are drawn at random. The peer
gets its prompts sorted by length, and the batch size that is fastest in a trial
before. Every contender is a process of its own; they take turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import memory

PEER_BATCHES = (8, 32, 64, 128, 256)


def ours(args: argparse.Namespace) -> dict[str, Any]:
  """Samples with a Stream; the second round is measured."""
  import jax

  from srl_jax import inference
  from srl_jax.rollout.completions import complete
  from srl_jax.rollout.requests import Request

  model = inference.load(inference.config_of(args.weights))
  requests = [
    Request(
      tokens,
      point_id=i,
      samples=range(args.samples),
      max_new_tokens=args.max_new_tokens,
    )
    for i, tokens in enumerate(read_prompts(args, model.run.tokenizer.encode))
  ]
  stream = model.stream(
    rows=args.rows,
    slots=args.samples,
    key=jax.random.key(0),
    trunk_width=max(len(r.tokens) for r in requests),
  )

  def sample():
    return sum(len(x.tokens) for x in complete(stream, requests))

  sample()
  work = stream.work.drawn_tokens, stream.work.slot_iterations
  cost = measured(sample)
  busy = stream.work.drawn_tokens - work[0]
  return cost | {"occupancy": busy / (stream.work.slot_iterations - work[1])}


def peer(args: argparse.Namespace) -> dict[str, Any]:
  """Samples with `generate`, in batches of the fastest size."""
  import torch
  import transformers

  torch.set_num_threads(args.cores)
  from srl_jax import inference

  config = inference.config_of(args.weights)
  ready = inference.load(config)
  prompts = sorted(read_prompts(args, ready.run.tokenizer.encode), key=len)
  stop_ids = list(ready.stop_ids)
  model = transformers.AutoModelForCausalLM.from_pretrained(
    config.weights, dtype=torch.float32
  ).eval()

  def sample(prompts: Sequence[Sequence[int]], batch: int) -> int:
    count = 0
    per_batch = max(1, batch // args.samples)
    for first in range(0, len(prompts), per_batch):
      part = prompts[first : first + per_batch]
      width = max(map(len, part))
      ids = torch.zeros((len(part), width), dtype=torch.long)
      mask = torch.zeros_like(ids)
      for row, tokens in enumerate(part):
        ids[row, width - len(tokens) :] = torch.tensor(tokens)
        mask[row, width - len(tokens) :] = 1
      with torch.inference_mode():
        out = model.generate(
          ids,
          attention_mask=mask,
          do_sample=True,
          temperature=1.0,
          top_k=0,
          top_p=1.0,
          num_return_sequences=args.samples,
          max_new_tokens=args.max_new_tokens,
          eos_token_id=stop_ids,
          pad_token_id=0,
        )[:, width:]
      is_stop = torch.isin(out, torch.tensor(stop_ids))
      count += int(((is_stop.cumsum(1) - is_stop.int()) == 0).sum())
    return count

  def rate(batch: int) -> float:
    # Every fourth prompt, so that all lengths are in the trial.
    cost = measured(lambda: sample(prompts[::4], batch))
    return cost["tokens"] / cost["wall_s"]

  torch.manual_seed(0)
  sample(prompts[:1], args.samples)
  rates = {b: rate(b) for b in PEER_BATCHES if b <= len(prompts) * args.samples}
  best = max(rates, key=rates.__getitem__)
  return measured(lambda: sample(prompts, best)) | {"batch": best}


def read_prompts(args: argparse.Namespace, encode: Any) -> list[list[int]]:
  """The token ids of the problems, worded plainly."""
  with open(args.problems, encoding="utf-8") as file:
    records = [json.loads(line) for line in itertools.islice(file, args.count)]
  texts = [r.get("problem") or r["question"] for r in records]
  return [encode(f"{text}\n") for text in texts]


def measured(call: Any) -> dict[str, Any]:
  """Runs a call that returns a number of tokens."""
  memory.reset_peak_rss()
  wall_s, cpu_s = time.perf_counter(), time.process_time()
  tokens = call()
  return {
    "tokens": tokens,
    "wall_s": time.perf_counter() - wall_s,
    "cpu_s": time.process_time() - cpu_s,
    "peak_bytes": memory.peak_rss(),
  }


CONTENDERS = {"ours": ours, "transformers": peer}


def main() -> None:
  """Runs the contenders in turn, or one of them in a child process."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  add = parser.add_argument
  add("--weights", required=True, help="a Hugging Face folder")
  add("--problems", required=True, help="JSON lines with the field problem")
  add("--count", type=int, default=64, help="how many problems")
  add("--samples", type=int, default=8, help="answers to each")
  add("--max_new_tokens", type=int, default=256)
  add("--rows", type=int, default=32, help="problems decoded at a time (ours)")
  add("--cores", type=int, default=1)
  add("--repeats", type=int, default=3)
  add("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.contender:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    print(json.dumps(CONTENDERS[args.contender](args)), flush=True)
    return
  rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
  for _ in range(args.repeats):
    for name in CONTENDERS:
      command = [sys.executable, "-m", "benchmarks.answers", *sys.argv[1:]]
      child = subprocess.run(
        [*command, f"--contender={name}"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
      )
      found = json.loads(child.stdout.splitlines()[-1])
      rates[name].append(found["tokens"] / found["cpu_s"])
      print(name, found, f"{rates[name][-1]:,.0f} tokens per CPU s", flush=True)
  ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
  print("ours / transformers:", ", ".join(f"{x:.2f}" for x in ratios))


if __name__ == "__main__":
  main()
