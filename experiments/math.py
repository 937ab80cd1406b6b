# SPDX-License-Identifier: Apache-2.0
"""The paper's recipes: SRL, and what it is held against, on s1K-1.1.

Does learning single steps of solutions that a model cannot find make it better
at finding whole ones? What the paper reports, as the mean over AMC23, AIME24,
AIME25 and Minerva: 27.6% after SRL (its columns average 26.9) instead of 24.6%
for Qwen2.5-7B-Instruct, and 19.5% after SRL and RLVR instead of 16.4% for the
3B model.

Presets (`--config=experiments/math.py:NAME`):

  auto             qwen2_5_7b on 64 TPU devices or more, qwen2_5_0_5b on 8 or
                   more, and else, on GPUs too, registers (the default); the
                   first line of the run says which, why, and how to choose.
  registers        The register programs of experiments/registers.py:srl. No
                   files, no accelerator, 2 minutes on two cores.
  qwen2_5_7b       The paper's model. 64 TPU v5e chips: up to 11.4 of their
                   15.75 GiB, and at peak rates 36 s for an update step, so 3
                   hours for all 300. v5p:4x4x4: 15 s; v6e:8x8: 14 s.
  qwen2_5_3b       The paper's smaller model. 64 chips: 9.3 GiB, 23 s, 2
                   hours.
  qwen2_5_0_5b     8 chips: 8.3 GiB, 48 s, 4 hours.
  qwen2_5_7b_lora  Adapters on the 7B model. 8 chips: 14.3 GiB, 264 s, 22 hours.
  checkpoint       From any checkpoint that fits the devices as they are:
                   checkpoint,weights=PATH. What it needs depends on it.

Methods (`--config=experiments/math.py:NAME,method=METHOD`; registers has the
first four and sft):

  srl            SRL on single steps (the default).
  srl_rlvr       SRL first, RLVR after: the paper's best.
  rlvr           RL on final answers alone, in solutions of up to 4,096 tokens.
  r3             RLVR that also begins after each of the expert's steps.
  sft            SFT on the expert's whole solutions, without thoughts (the
                 paper's "R1 outline").
  sft_reasoning  SFT on all that the expert thought, and then the solution, in
                 up to 16,384 tokens (the paper's "R1 reasoning").
  sft_rlvr       SFT first, RLVR after.

Memory and times are by the TPU compiler and by counts, not measured
(benchmarks/RESULTS.md; `srl_jax compile` makes them anew, for other
topologies and methods too). Those above are of SRL, with 4 groups in 10 kept
and 420 tokens in the mean completion. With as many kept and 1,500 tokens, RLVR
of qwen2_5_7b takes 12.4 GiB and 60 s, so 3.3 hours for all 200 update steps,
and that of qwen2_5_0_5b 5.2 GiB, 73 s and 4 hours; SFT of qwen2_5_7b takes 9.2
GiB, and on all reasoning 14.2. The evaluation comes on top of them.

All but registers read simplescaling/s1K-1.1 (.jsonl or .parquet) from
c.data.path, data/s1K-1.1 unless told otherwise; Qwen's Instruct models
come from the Hugging Face hub, or from a folder as c.weights and
c.tokenizer.path. Of the solutions in numbered steps 60 are held out for
validation, as in the paper, and 40 more for the table, which leaves nine in
ten to train on; its intervals are wide, about 15 points to each side.

The table also has the paper's suites, before and after: AMC23, AIME24, AIME25
and Minerva, by the protocol "paper". Their files come from the folder data, or
else from the hub. c.evaluate.suites=() leaves them out.
"""

import dataclasses

from srl_jax import config


@dataclasses.dataclass(frozen=True)
class Placement:
  """A model, and how it is spread over TPU v5e chips so that it fits.

  Attributes:
    model: its name in srl_jax.models.zoo.
    hub: its name on the Hugging Face hub.
    chips: number of TPU v5e chips.
    tensor: how many of them hold the weights between them while sampling.
    parts: of a round. No more than 16 trunks per device at a time: their
      branches' keys and values are most of what sampling needs.
    rlvr_slots: whole solutions that a chip decodes at a time.
    trunks_per_chip: trunks per chip and micro-batch.
    lora_rank: rank of the adapters; 0 to train all weights.
  """

  model: str
  hub: str
  chips: int
  tensor: int
  parts: int
  rlvr_slots: int
  trunks_per_chip: int = 2
  lora_rank: int = 0


_7B = ("qwen2_5_7b", "Qwen/Qwen2.5-7B-Instruct")
_3B = ("qwen2_5_3b", "Qwen/Qwen2.5-3B-Instruct")
_0_5B = ("qwen2_5_0_5b", "Qwen/Qwen2.5-0.5B-Instruct")
PLACEMENTS = {
  "qwen2_5_7b": Placement(*_7B, chips=64, tensor=4, parts=1, rlvr_slots=16),
  "qwen2_5_3b": Placement(*_3B, chips=64, tensor=2, parts=1, rlvr_slots=32),
  "qwen2_5_0_5b": Placement(*_0_5B, chips=8, tensor=1, parts=2, rlvr_slots=64),
  "qwen2_5_7b_lora": Placement(
    *_7B, chips=8, tensor=4, parts=8, rlvr_slots=16, lora_rank=32
  ),
}
PRESETS = ("auto", "registers", *PLACEMENTS, "checkpoint")
# The stages of each method.
METHODS = {
  "srl": ("srl",),
  "srl_rlvr": ("srl", "rlvr"),
  "rlvr": ("rlvr",),
  "r3": ("rlvr",),
  "sft": ("sft",),
  "sft_reasoning": ("sft",),
  "sft_rlvr": ("sft", "rlvr"),
}


def get_config(argument=None):
  preset, overrides = config.parse_argument(argument, "auto", PRESETS)
  method, note = overrides.pop("method", "srl"), ""
  if method not in METHODS:
    raise ValueError(
      f"there is no method {method!r}; choose one of {', '.join(METHODS)} "
      "(objectives, such as DAPO, are fields: see docs/configure.md)"
    )
  if preset == "auto":
    preset, note = choose()
  if preset == "registers":
    c = config.base_config(__file__, "registers", method)
  else:
    c = config.default_config()
    c.name = f"math:{preset}"
    if preset == "checkpoint":
      set_checkpoint(c, overrides)
    else:
      set_placement(c, PLACEMENTS[preset])
    set_method(c, method)
  c.note = note
  config.override(c, overrides)
  return c


def set_method(c, method):
  """What is trained, in which order."""
  c.stages = METHODS[method]
  if method != "srl":
    c.name += f",method={method}"
  if method == "r3":
    c.rlvr.trunks.starts = "every_step"
    c.rlvr.trunks.max_trunk_tokens = 2048
    c.rlvr.trunks.points_per_trunk = 1
  if method == "sft_reasoning":
    c.data.reasoning_thoughts = True
    c.sft.trunks.include_thoughts = True
    c.sft.trunks.max_target_tokens = 16384
    # Whoever learns to think so long is to be judged by what comes of it.
    longest = min(16384, c.model.max_positions // 2)
    c.evaluate.max_solve_tokens = c.evaluate.suite_tokens = longest
    c.evaluate.answers_per_batch //= 4


def choose():
  """The preset that suits this machine, and why, in two sentences."""
  platform, found = config.devices_found()
  devices = found if platform == "tpu" else 0
  pins = (
    "To choose: --config=experiments/math.py:qwen2_5_7b, or "
    "--config=experiments/math.py:registers."
  )
  for preset in ("qwen2_5_7b", "qwen2_5_0_5b"):
    if devices >= PLACEMENTS[preset].chips:
      return preset, (
        f"math: there are {devices} TPU devices, so this is the paper's recipe "
        f"for {PLACEMENTS[preset].hub}. {pins}"
      )
  if platform == "gpu":
    return "registers", (
      f"math: there are 0 TPU devices, and for {found} GPU(s) no recipe is "
      "laid out, so this trains a small built-in task, register programs. To "
      "choose: --config=experiments/math.py:qwen2_5_0_5b (`srl_jax fit "
      "--type=h100` says which presets fit one GPU), or "
      "--config=experiments/math.py:registers."
    )
  return "registers", (
    f"math: there are {devices} TPU devices, too few for the paper's recipe, "
    f"so this trains a small built-in task, register programs. {pins}"
  )


def set_checkpoint(c, overrides):
  """Any checkpoint, with its own shape and tokenizer."""
  if "weights" not in overrides:
    raise ValueError(
      "the preset 'checkpoint' wants a folder, or a name on the Hugging Face "
      "hub: --config=FILE:checkpoint,weights=PATH"
    )
  config.use_checkpoint(c, overrides.pop("weights"))
  set_paper(c)


def set_placement(c, placement):
  """A model of the paper, or one like it, spread over TPU v5e chips."""
  config.set_model(c, placement.model)
  c.weights = placement.hub
  c.tokenizer.kind = "huggingface"
  c.tokenizer.path = placement.hub
  set_paper(c)
  # Stored and updated: split over all chips, and a trunk goes to each. While
  # sampling, the chips of a `tensor` group hold the weights between them.
  c.mesh.data = 1
  c.mesh.fsdp = -1
  c.mesh.tensor = placement.tensor
  c.rules.batch = ("data", "fsdp", "tensor")
  c.rollout_rules.embed = None
  c.srl.sampling.parts_per_round = placement.parts
  # As many tokens of whole solutions as a part of a round of SRL has.
  c.evaluate.answers_per_batch = 512 // placement.parts
  c.rlvr.sampling.slots = 16
  c.rlvr.sampling.rows = placement.rlvr_slots * placement.chips // 16
  c.srl.trunks_per_micro_batch = placement.trunks_per_chip * placement.chips
  # Whole solutions are four times as long as steps, or longer.
  c.rlvr.trunks_per_micro_batch = placement.chips
  c.sft.trunks_per_micro_batch = placement.chips
  if placement.lora_rank:
    # Adapters learn at rates some ten times those of all weights.
    c.model.lora.rank = placement.lora_rank
    c.model.lora.alpha = float(placement.lora_rank)
    c.model.param_dtype = "bfloat16"
    c.srl.optim.learning_rate = c.rlvr.optim.learning_rate = 5e-6
    c.sft.optim.learning_rate = 5e-5


def set_paper(c):
  """Table of settings and Section 4 of the paper; lengths are ours."""
  c.template = "chat"
  c.data.format = "s1k"
  c.data.path = "data/s1K-1.1"
  c.data.valid_size = 60
  c.data.test_size = 40
  # As many kept groups as 30 epochs have steps of 900 solutions; more are
  # sampled.
  c.srl.update_steps = 300
  # With this, rows of two trunks have 8 lanes for their 32 branches.
  c.srl.lanes_per_branch = 0.25
  c.srl.groups_per_batch = 512
  # The most of a million tokens in bfloat16; what a defect makes is far above.
  c.srl.max_logp_gap = c.rlvr.max_logp_gap = 4.0
  c.srl.sampling.trunks_per_round = 256
  c.srl.sampling.samples = 8
  c.srl.sampling.max_new_tokens = 1024
  c.srl.trunks.max_trunk_tokens = 2048
  c.srl.trunks.points_per_trunk = 2
  c.srl.optim.learning_rate = 5e-7
  c.srl.optim.max_grad_norm = 1.0
  c.srl.validate_every = 10
  c.srl.validation_trajectories = 0
  # As many kept groups as 28 epochs have problems.
  c.rlvr.update_steps = 200
  c.rlvr.groups_per_batch = 128
  c.rlvr.sampling.trunks_per_round = 64
  c.rlvr.sampling.samples = 8
  c.rlvr.sampling.max_new_tokens = 4096
  c.rlvr.trunks.max_trunk_tokens = 1024
  c.rlvr.optim.learning_rate = 5e-7
  c.rlvr.optim.max_grad_norm = 1.0
  c.rlvr.validate_every = 10
  c.rlvr.validation_trajectories = 0
  # Three epochs, 64 solutions per update step.
  c.sft.update_steps = 42
  c.sft.trunks_per_batch = 64
  c.sft.trunks.task = "solve"
  c.sft.trunks.include_thoughts = False
  c.sft.trunks.max_trunk_tokens = 2048
  c.sft.trunks.max_target_tokens = 4096
  c.sft.optim.learning_rate = 5e-6
  c.sft.validate_every = 14
  c.sft.validation_trajectories = 0
  # A turn may be as long as in training, and a solution in one go as long as
  # several turns, if the model's context leaves room for a problem.
  c.evaluate.samples = 4
  c.evaluate.answers_per_batch = 32
  c.evaluate.max_turns = 16
  c.evaluate.max_turn_tokens = 1024
  c.evaluate.max_solve_tokens = min(4096, c.model.max_positions // 2)
  # The paper's table.
  c.evaluate.suites = ("amc23", "aime24", "aime25", "minerva")
  c.evaluate.suites_folder = "data"
  c.evaluate.suites_every_update_steps = 50
  c.checkpoint.every_update_steps = 10
