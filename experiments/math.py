# SPDX-License-Identifier: Apache-2.0
"""SRL on step-by-step maths: does it lift a model off problems it cannot solve?

Presets (`--config=experiments/math.py:NAME`):
  embedded           the embedded task, SRL; minutes on a laptop (the default)
  embedded_rlvr      same student and problems, rewarded for final answers only
  embedded_srl_rlvr  SRL first, RLVR after
  embedded_sft       SFT on the expert's steps, which hold no thoughts
  qwen2_5_7b         the paper's recipe: SRL on s1K-1.1; 64 TPU chips
  qwen2_5_3b         the same with the 3B model; 64 chips
  qwen2_5_0_5b       the same with the 0.5B model; 8 chips

The first four start from the student that ships with the package; the README
says which weaknesses were planted in it, and what to expect.

The others want three things of the user (the paths are settings):
  data/s1K-1.1.jsonl        simplescaling/s1K-1.1    c.data.path
  models/NAME/              its tokenizer and JSON   c.tokenizer.path
  models/NAME.safetensors   the weights              c.weights
Meshes, layouts and micro-batches are such that they fit TPU v5e, the chip with
the least memory; `python -m launch.compile` shows how, without a TPU.
"""

from srl_jax import config

PRESETS = {
  "embedded": ("srl",),
  "embedded_rlvr": ("rlvr",),
  "embedded_srl_rlvr": ("srl", "rlvr"),
  "embedded_sft": ("sft",),
  "qwen2_5_7b": ("srl",),
  "qwen2_5_3b": ("srl",),
  "qwen2_5_0_5b": ("srl",),
}


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "embedded", PRESETS)
  c = config.default_config()
  c.name = f"math:{preset}"
  c.stages = PRESETS[preset]
  if preset.startswith("qwen"):
    set_paper(c, preset)
  else:
    set_embedded(c)
  config.override(c, overrides)
  return c


def set_embedded(c):
  """The embedded task."""
  c.weights = "embedded"
  c.tokenizer.kind = "sentencepiece"
  c.tokenizer.path = "embedded"
  c.data.format = "embedded"
  c.data.train_size = 1000
  c.data.valid_size = 64
  c.data.test_size = 200
  for stage in (c.srl, c.rlvr):
    stage.groups_per_batch = 32
    stage.validate_every = 10
    stage.optim.learning_rate = 5e-5
  c.srl.steps = 30
  c.srl.trunks_per_round = 8
  c.srl.trunks_per_micro_batch = 8
  c.srl.sampling.max_new_tokens = 48
  # One branch point per problem, so four times the problems per round. The
  # student hardly ever gets a whole problem right: groups are taken as they
  # come, for no number of rounds would fill a batch with ones that differ.
  c.rlvr.steps = 60
  c.rlvr.dynamic_sampling.enabled = False
  c.rlvr.trunks_per_round = 32
  c.rlvr.trunks_per_micro_batch = 32
  c.rlvr.sampling.max_new_tokens = 176
  c.sft.trunks_per_batch = 32
  c.sft.trunks_per_micro_batch = 32
  c.sft.instances.include_thoughts = False
  c.sft.validate_every = 10
  c.sft.optim.learning_rate = 3e-4
  c.evaluate.samples = 4
  c.evaluate.max_turns = 4
  c.evaluate.max_turn_tokens = 48
  c.evaluate.max_solve_tokens = 176
  c.evaluate.rows_per_batch = 100
  c.checkpoint.every_steps = 10
  c.log_every = 2


def set_paper(c, model):
  """Table of settings and Section 4 of the paper; lengths are ours."""
  config.set_model(c, model)
  c.weights = f"models/{model}.safetensors"
  c.template = "chat"
  c.tokenizer.kind = "huggingface"
  c.tokenizer.path = f"models/{model}"
  c.data.format = "s1k"
  c.data.path = "data/s1K-1.1.jsonl"
  c.data.valid_size = 60
  # About 30 epochs of the steps of 1,000 solutions.
  c.srl.steps = 300
  c.srl.groups_per_batch = 512
  c.srl.sampling.samples = 8
  c.srl.sampling.max_new_tokens = 1024
  c.srl.instances.max_trunk_tokens = 2048
  c.srl.instances.points_per_trunk = 2
  c.srl.optim.learning_rate = 5e-7
  c.srl.optim.max_grad_norm = 1.0
  c.srl.validate_every = 10
  c.srl.validation_trunks = 0
  c.checkpoint.every_steps = 10
  # Stored and updated: split over all chips, and a trunk goes to each. While
  # sampling, the chips of a `tensor` group hold the weights between them.
  c.mesh.data = 1
  c.mesh.fsdp = -1
  c.mesh.tensor = {"qwen2_5_7b": 4, "qwen2_5_3b": 2, "qwen2_5_0_5b": 1}[model]
  c.rules.batch = ("data", "fsdp", "tensor")
  c.rollout_rules.embed = None
  c.srl.trunks_per_round = 256
  chips = 8 if model == "qwen2_5_0_5b" else 64
  # No more than 16 trunks per device at a time: their branches' keys and
  # values are most of what sampling needs.
  c.srl.parts_per_round = 2 if chips == 8 else 1
  micro_batch = 2 * chips if chips == 8 else chips
  c.srl.trunks_per_micro_batch = micro_batch
