# SPDX-License-Identifier: Apache-2.0
"""The RL stages' configuration: SRL on steps, RLVR on solutions, episodes."""

from __future__ import annotations

import dataclasses
import math

from srl_jax import strict
from srl_jax.data.trunks import TrunkConfig
from srl_jax.rewards import RewardConfig
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.update.groups import DynamicSamplingConfig
from srl_jax.update.grpo import LossConfig
from srl_jax.update.optim import OptimConfig


def _check_draws(samples: int, temperature: float) -> None:
  """Refuses samples that no group of GRPO can be made of."""
  if samples < 2:
    raise ValueError(
      f"samples={samples}: the advantage compares the samples of a group, so a "
      "group needs at least 2; set samples=8, as the paper does"
    )
  if not 0 < temperature < math.inf:
    raise ValueError(
      f"temperature={temperature} draws from another distribution than the "
      "loss scores, so their ratio means nothing; for training set a "
      "temperature above 0"
    )


@dataclasses.dataclass(frozen=True)
class RoundConfig:
  """How an RL stage samples, round by round.

  Attributes:
    samples: completions per branch point (the group size G).
    max_new_tokens: limit of each completion, its stop token included; stem
      tokens do not count.
    temperature: divides the logits.
    slots: how many branches of a trunk are decoded at a time; the others wait
      for a free slot. 0 decodes all at once. Where completions stay far below
      the limit (metric `slot_occupancy`), few slots take no more iterations
      than many; see docs/performance.md.
    trunks_per_round: trunks sampled at a time, by all processes together: one
      per trajectory, or with trunks.context_turns one per step.
    parts_per_round: number of parts that a round is sampled in, so that the
      host scores one while the device decodes the next; divides
      trunks_per_round.
    rows: 0 samples round by round. Above 0: rows of `slots` decoder slots, on
      all devices together, that all rounds of an update step share, so that
      the next round starts while the last branches of the previous one are
      decoded. Saves decoding time where the filter drops many groups; see
      docs/performance.md.
  """

  samples: int = 8
  max_new_tokens: int = 256
  temperature: float = 1.0
  slots: int = 0
  trunks_per_round: int = 64
  parts_per_round: int = 1
  rows: int = 0

  def __post_init__(self):
    strict.check_numbers(
      self,
      max_new_tokens="[1, )",
      slots="[0, )",
      trunks_per_round="[1, )",
      parts_per_round="[1, )",
      rows="[0, )",
    )
    if self.trunks_per_round % self.parts_per_round:
      raise ValueError(
        f"trunks_per_round={self.trunks_per_round} is not a multiple of "
        f"parts_per_round={self.parts_per_round}; change one of them"
      )
    if self.rows and self.parts_per_round > 1:
      raise ValueError(
        f"sampling.parts_per_round={self.parts_per_round} cuts a round into "
        f"parts, and with sampling.rows={self.rows} rounds share their slots; "
        "set parts_per_round=1 and lower trunks_per_round instead, or rows=0"
      )
    _check_draws(self.samples, self.temperature)

  def slots_of(self, branches: int) -> int:
    """Branches of a row that are decoded at a time.

    Args:
      branches: of a trunk. If rounds share slots, a row has several trunks.
    """
    slots = self.slots or branches
    return slots if self.rows else min(slots, branches)

  def for_sampler(self) -> SamplingConfig:
    """The sampler's part; RL samples from the whole vocabulary."""
    return SamplingConfig(
      samples=self.samples,
      max_new_tokens=self.max_new_tokens,
      temperature=self.temperature,
      slots=self.slots,
    )


@dataclasses.dataclass(frozen=True)
class GrpoConfig:
  """What all stages of GRPO have.

  Attributes:
    update_steps: number of batches that are sampled and trained on.
    groups_per_batch: kept groups per batch (the paper's batch size B); in the
      stage episodes the least number, because all kept problems of its last
      round are trained on.
    passes: how many times the optimizer steps on each batch, each time on the
      whole of it.
    trunks_per_micro_batch: trunks whose gradient is computed at a time, by all
      processes together; raised to a multiple of the devices. Two share a row
      if there are two per device.
    lanes_per_branch: lanes of a micro-batch per branch that its trunks can
      have. Changes speed and memory only. 0 chooses by simulation for a 50%
      keep rate (100% without dynamic sampling) and completions of 40% of their
      limit; for episodes, 0.25 per turn.
    validate_every: update steps between validations (mean reward, at the
      sampling temperature), the best of which gives the stage's result; 0
      validates at the end only.
    validation_trajectories: trajectories per validation; 0 for all.
    max_logp_gap: the run stops when sampler and trainer disagree about a
      fresh token's log-prob by more than this many nats: they then compute
      different things, and no result would mean anything.
    loss: the objective.
    optim: the optimizer.
  """

  update_steps: int = 100
  groups_per_batch: int = 512
  passes: int = 1
  trunks_per_micro_batch: int = 16
  lanes_per_branch: float = 0.0
  validate_every: int = 0
  validation_trajectories: int = 64
  max_logp_gap: float = 1.0
  loss: LossConfig = LossConfig()
  optim: OptimConfig = OptimConfig()

  def __post_init__(self):
    strict.check_numbers(
      self,
      update_steps="[1, )",
      groups_per_batch="[1, )",
      passes="[1, )",
      trunks_per_micro_batch="[1, )",
      lanes_per_branch="[0, 1]",
      validate_every="[0, )",
      validation_trajectories="[0, )",
      max_logp_gap="(0, )",
    )


@dataclasses.dataclass(frozen=True)
class RlConfig(GrpoConfig):
  """A stage of GRPO on branch points: SRL on steps, or RLVR on solutions.

  Attributes:
    fuse: sample, score and update in one program. It needs the reward on the
      device, dynamic_sampling.refill=False, one pass,
      sampling.parts_per_round=1 and whole micro-batches in a round. Nothing is
      packed then: groups that are dropped and padding are computed, too.
    trunks: the branch points; task "step" in SRL, task "solve" in RLVR.
    sampling: how completions are drawn.
    reward: how they are rewarded: by the domain's reward of single steps, or
      its verdict on whole solutions, if nothing else is set.
    dynamic_sampling: which groups are kept.
  """

  fuse: bool = False
  trunks: TrunkConfig = TrunkConfig()
  sampling: RoundConfig = RoundConfig()
  reward: RewardConfig = RewardConfig(function="domain")
  dynamic_sampling: DynamicSamplingConfig = DynamicSamplingConfig()

  def __post_init__(self):
    super().__post_init__()
    if self.sampling.rows and not self.dynamic_sampling.refill:
      raise ValueError(
        f"sampling.rows={self.sampling.rows} samples several rounds together, "
        "and with dynamic_sampling.refill=False a batch is one round; set "
        "refill=True or rows=0"
      )


@dataclasses.dataclass(frozen=True)
class EpisodesConfig(GrpoConfig):
  """A stage of GRPO on episodes: RL on the outcomes of an agent.

  A problem is solved turn by turn as in evaluation, and its environment, or
  the domain's verdict, says whether it is solved. The episodes of a problem
  are a group. Rounds are sampled until groups_per_batch problems have episodes
  with different outcomes, or max_rounds is reached. All such problems form the
  batch; without any, the update step is skipped.

  Attributes:
    turns: most turns of an episode.
    context_turns: number of earlier turns in the context; 0 shows all of them.
    max_context_tokens: longest context of a turn in tokens; an episode ends
      where it is full. 0 for what the model's own limit leaves.
    samples: episodes of a problem (the group size G).
    max_new_tokens: limit of each turn, its stop token included; stem tokens do
      not count.
    temperature: divides the logits.
    problems_per_round: problems sampled at a time, by all processes together.
    max_rounds: most rounds of sampling for one batch.
    keep_all: train on every problem; those whose episodes all end alike then
      add nothing to the gradient (but that of the KL term, if there is one),
      and count in its average.
  """

  groups_per_batch: int = 16
  turns: int = 16
  context_turns: int = 0
  max_context_tokens: int = 0
  samples: int = 8
  max_new_tokens: int = 256
  temperature: float = 1.0
  problems_per_round: int = 64
  max_rounds: int = 4
  keep_all: bool = False

  def __post_init__(self):
    super().__post_init__()
    strict.check_numbers(
      self,
      turns="[1, )",
      context_turns="[0, )",
      max_context_tokens="[0, )",
      max_new_tokens="[1, )",
      problems_per_round="[1, )",
      max_rounds="[1, )",
    )
    _check_draws(self.samples, self.temperature)
