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
  qwen2_5_7b_lora    the same with adapters on the 7B model; 8 chips
  checkpoint         the same from any checkpoint: checkpoint,weights=PATH

The first four start from the student that ships with the package; the README
says which weaknesses were planted in it, and what to expect.

The others want simplescaling/s1K-1.1 as c.data.path (data/s1K-1.1.jsonl) and
take Qwen's Instruct models from the Hugging Face hub; a folder on disk is
c.weights and c.tokenizer.path. Meshes, layouts and micro-batches are such that
they fit TPU v5e, the chip with the least memory; `python -m launch.compile`
shows how, without a TPU.
"""

import dataclasses

from srl_jax import config

# The stages of each preset.
PRESETS = {
  "embedded": ("srl",),
  "embedded_rlvr": ("rlvr",),
  "embedded_srl_rlvr": ("srl", "rlvr"),
  "embedded_sft": ("sft",),
  "qwen2_5_7b": ("srl",),
  "qwen2_5_3b": ("srl",),
  "qwen2_5_0_5b": ("srl",),
  "qwen2_5_7b_lora": ("srl",),
  "checkpoint": ("srl",),
}


@dataclasses.dataclass(frozen=True)
class Layout:
  """How a model is spread, so that it fits.

  Attributes:
    hub: its name on the Hugging Face hub.
    chips: of TPU v5e.
    tensor: how many of them hold the weights between them while sampling.
    parts: of a round. No more than 16 trunks per device at a time: their
      branches' keys and values are most of what sampling needs.
    rows: trunks per chip and micro-batch.
  """

  hub: str
  chips: int
  tensor: int
  parts: int
  rows: int


LAYOUTS = {
  "qwen2_5_7b": Layout("Qwen/Qwen2.5-7B-Instruct", 64, 4, 1, 1),
  "qwen2_5_3b": Layout("Qwen/Qwen2.5-3B-Instruct", 64, 2, 1, 1),
  "qwen2_5_0_5b": Layout("Qwen/Qwen2.5-0.5B-Instruct", 8, 1, 2, 2),
  "qwen2_5_7b_lora": Layout("Qwen/Qwen2.5-7B-Instruct", 8, 4, 8, 1),
}


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "embedded", PRESETS)
  c = config.default_config()
  c.name = f"math:{preset}"
  c.stages = PRESETS[preset]
  if preset.startswith("embedded"):
    set_embedded(c)
  elif preset == "checkpoint":
    if "weights" not in overrides:
      raise ValueError(
        "the preset 'checkpoint' wants a folder, or a name on the Hugging Face "
        "hub: --config=experiments/math.py:checkpoint,weights=PATH"
      )
    config.use_checkpoint(c, overrides.pop("weights"))
    set_paper(c)
  else:
    set_qwen(c, preset)
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
  c.srl.update_steps = 30
  c.srl.trunks_per_round = 8
  c.srl.trunks_per_micro_batch = 8
  c.srl.sampling.max_new_tokens = 48
  # One branch point per problem, so four times the problems per round. The
  # student hardly ever gets a whole problem right: groups are taken as they
  # come, for no number of rounds would fill a batch with ones that differ.
  c.rlvr.update_steps = 60
  c.rlvr.dynamic_sampling.enabled = False
  c.rlvr.trunks_per_round = 32
  c.rlvr.trunks_per_micro_batch = 32
  c.rlvr.sampling.max_new_tokens = 176
  c.sft.trunks_per_batch = 32
  c.sft.trunks_per_micro_batch = 32
  c.sft.trunks.include_thoughts = False
  c.sft.validate_every = 10
  c.sft.optim.learning_rate = 3e-4
  c.evaluate.samples = 4
  c.evaluate.max_turns = 4
  c.evaluate.max_turn_tokens = 48
  c.evaluate.max_solve_tokens = 176
  c.evaluate.rows_per_batch = 100
  c.checkpoint.every_update_steps = 10
  c.log_every = 2


def set_qwen(c, preset):
  """A model of the paper, or one like it, spread over TPU v5e chips."""
  layout = LAYOUTS[preset]
  config.set_model(c, preset.removesuffix("_lora"))
  c.weights = layout.hub
  c.tokenizer.kind = "huggingface"
  c.tokenizer.path = layout.hub
  set_paper(c)
  # Stored and updated: split over all chips, and a trunk goes to each. While
  # sampling, the chips of a `tensor` group hold the weights between them.
  c.mesh.data = 1
  c.mesh.fsdp = -1
  c.mesh.tensor = layout.tensor
  c.rules.batch = ("data", "fsdp", "tensor")
  c.rollout_rules.embed = None
  c.srl.parts_per_round = layout.parts
  c.srl.trunks_per_micro_batch = layout.rows * layout.chips
  if preset.endswith("_lora"):
    # Adapters learn at rates some ten times those of all weights.
    c.model.lora.rank = 32
    c.model.lora.alpha = 32.0
    c.model.param_dtype = "bfloat16"
    c.srl.optim.learning_rate = 5e-6


def set_paper(c):
  """Table of settings and Section 4 of the paper; lengths are ours."""
  c.template = "chat"
  c.data.format = "s1k"
  c.data.path = "data/s1K-1.1.jsonl"
  c.data.valid_size = 60
  # About 30 epochs of the steps of 1,000 solutions.
  c.srl.update_steps = 300
  c.srl.groups_per_batch = 512
  c.srl.trunks_per_round = 256
  c.srl.sampling.samples = 8
  c.srl.sampling.max_new_tokens = 1024
  c.srl.trunks.max_trunk_tokens = 2048
  c.srl.trunks.points_per_trunk = 2
  c.srl.optim.learning_rate = 5e-7
  c.srl.optim.max_grad_norm = 1.0
  c.srl.validate_every = 10
  c.srl.validation_trunks = 0
  c.checkpoint.every_update_steps = 10
