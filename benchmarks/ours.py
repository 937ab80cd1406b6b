# SPDX-License-Identifier: Apache-2.0
"""One GRPO update step of this package on a workload, by the training code.

`sample_and_score` samples and scores, `pack` packs and Updater updates, as in a
stage with rewards on the host. There are two differences: the workload says
how long completions are and which groups are kept, and random completions count
as well-formed actions, so that their rewards cost what real ones do.

Layouts: "shared" is the package's own, a row per trajectory with all its
branches. "flat" repeats the prompt for each sample, in batches of one
length; "flat padded" pads those rows to the longest. In the flat layouts the
samples of a group lie in different rows, so advantages are computed on the
host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.workload import PAD_ID, STOP_ID, Workload, given, words
from srl_jax import sharding
from srl_jax.data import batching
from srl_jax.data.batching import TrunkBatch
from srl_jax.data.trunks import BranchPoint, Trunk
from srl_jax.models import LanguageModel, ModelConfig
from srl_jax.ops import advantages, losses
from srl_jax.rewards import Completion, RewardConfig, Scorer
from srl_jax.rollout import decode
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.rollout.rounds import Round, sample_and_score
from srl_jax.rollout.sampler import Sampler
from srl_jax.testing.tiny import small_mesh
from srl_jax.tokenizers import Tokenizer
from srl_jax.trajectory import Step, Trajectory
from srl_jax.types import Branches, Trunks
from srl_jax.update import groups as groups_lib
from srl_jax.update.batch import (
  Experience,
  LossFn,
  MicroBatch,
  one_branch_per_lane,
)
from srl_jax.update.grpo import LossConfig, aggregate, grpo_loss, lane_logps
from srl_jax.update.optim import OptimConfig, learning_rate, make_optimizer
from srl_jax.update.pack_shapes import pack_shape
from srl_jax.update.packing import pack
from srl_jax.update.updater import TrainState, Updater

LAYOUTS = ("shared", "flat", "flat padded")
OPTIM = OptimConfig(learning_rate=1e-5)


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a workload is run.

  Attributes:
    layout: one of LAYOUTS.
    trunks_per_micro_batch: rows of a micro-batch in layout "shared"; 0 for
      all. Flat layouts take the rows of one expert step.
    max_logits: see LossConfig; 0 for its default.
    attention_logits: see ModelConfig; 0 for its default.
    trains: False samples without an update.
  """

  layout: str = "shared"
  trunks_per_micro_batch: int = 0
  max_logits: int = 0
  attention_logits: int = 0
  trains: bool = True


class Words(Tokenizer):
  """Decodes ids as words, each with a space after it; cannot encode."""

  def __init__(self, vocab_size: int):
    table = [f"{word} ".encode() for word in words(vocab_size)]
    super().__init__(table, specials={}, byte_ids=(), pad_id=PAD_ID)


class ActionScorer(Scorer):
  """Scores random completions as if they had a thought and a stop token.

  Attributes:
    spent: [wall, CPU] seconds.
  """

  def __init__(self, config: RewardConfig):
    super().__init__(config)
    self.spent = np.zeros(2)

  def score(self, completions, targets, contexts=None):
    clock = Clock()
    whole = [Completion(f"<think>a</think>{c.text}", True) for c in completions]
    scores = super().score(whole, targets, contexts)
    self.spent += clock.split()
    return scores


def trunk_batches(
  work: Workload, vocab_size: int, layout: str
) -> list[TrunkBatch]:
  """Returns the batches of a round, which are sampled one after the other."""
  tokens_NS, stem_KC, target_NK = given(work, vocab_size)
  counts = (work.trajectories, work.steps, work.samples)

  def point(n, k, instance):
    return BranchPoint(
      step=k,
      at=int(work.prompt_tokens[k]),
      stem=stem_KC[k],
      target=target_NK[n][k],
      target_tokens=np.zeros(0, np.int32),
      point_id=instance,
    )

  def trunk(n, points):
    tokens = tokens_NS[n, : max(p.at for p in points)]
    trajectory = Trajectory(str(n), "general", "?", (Step("."),))
    return Trunk(trajectory, tokens, tuple(points))

  if layout == "shared":
    batches = [
      [
        trunk(n, [point(n, k, n * counts[1] + k) for k in range(counts[1])])
        for n in range(counts[0])
      ]
    ]
  else:
    batches = [
      [
        # Every sample has its own name, as a row holds only one.
        trunk(n, [point(n, k, int(np.ravel_multi_index((n, k, g), counts)))])
        for n in range(counts[0])
        for g in range(counts[2])
      ]
      for k in range(counts[1])
    ]
  if layout == "flat padded":
    batches = [[trunk for batch in batches for trunk in batch]]
  return [_collate(trunks) for trunks in batches]


def _collate(trunks):
  least = batching.widths(trunks)
  return batching.collate(
    trunks,
    trunk_width=least.trunk,
    points=least.points,
    stem_width=least.stem,
  )


def given_advantages(policy: LanguageModel, config: LossConfig) -> LossFn:
  """Returns the package's GRPO loss for given advantages, without metrics."""

  def loss_fn(params, batch, reference):
    del reference
    logp_NBW, *_ = lane_logps(
      policy, params, batch, temperature=1.0, max_logits=config.max_logits
    )
    loss_NBW = losses.clipped_surrogate(
      logp_NBW,
      batch.sampler_logp_NBW,
      batch.advantage_NBW,
      clip_low=config.clip_low,
      clip_high=config.clip_high,
    )
    return aggregate(loss_NBW, batch, config), None

  return loss_fn


def lanes_of(
  trunks: Trunks, branches: Branches, advantage_NR: np.ndarray
) -> MicroBatch:
  """Returns a lane for each branch, with these advantages."""
  count, points = trunks.branch_at_NK.shape
  shape = (count, points, branches.length_NR.shape[1] // points)
  no_reward_NKG = np.zeros(shape, np.float32)
  batch = one_branch_per_lane(Experience(trunks, branches, no_reward_NKG))
  advantage_NBW = np.broadcast_to(
    np.float32(advantage_NR)[..., None], batch.tokens_NBW.shape
  )
  return batch._replace(advantage_NBW=advantage_NBW)


@contextlib.contextmanager
def given_lengths(work: Workload) -> Iterator[None]:
  """Within it, programs are traced whose completions have given lengths.

  All branches must be decoded at once, so that slots are in their order.
  """
  if work.fill == 1:
    yield
    return
  draw = decode.draw
  length_NR = jnp.asarray(work.lengths.reshape(work.trajectories, -1))

  def draw_until(logits_NRV, key_NR, place_NR, **settings):
    stop_logp_NR = jax.nn.log_softmax(logits_NRV)[..., STOP_ID]
    without_stop = logits_NRV.at[..., STOP_ID].set(-jnp.inf)
    token_NR, logp_NR = draw(without_stop, key_NR, place_NR, **settings)
    is_last_NR = place_NR + 1 >= length_NR
    return (
      jnp.where(is_last_NR, STOP_ID, token_NR),
      jnp.where(is_last_NR, stop_logp_NR, logp_NR),
    )

  with mock.patch.object(decode, "draw", draw_until):
    yield


class Clock:
  """Wall and CPU time since the last call of `split`."""

  def __init__(self):
    self._last = self._now()

  def _now(self):
    return np.array([time.perf_counter(), time.process_time()])

  def split(self) -> np.ndarray:
    """[wall, CPU] seconds."""
    now = self._now()
    passed, self._last = now - self._last, now
    return passed


class Ours:
  """The compiled pieces of an update step, and its state."""

  def __init__(self, model: ModelConfig, work: Workload, settings: Settings):
    self.work, self.settings = work, settings
    if settings.attention_logits:
      model = dataclasses.replace(
        model, attention_logits=settings.attention_logits
      )
    self.mesh, self.rules = small_mesh(), sharding.ShardingRules()
    self.policy = LanguageModel(model, self.rules)
    self.is_shared = settings.layout == "shared"
    self.sampling = SamplingConfig(
      samples=work.samples if self.is_shared else 1,
      max_new_tokens=work.new_tokens,
    )
    self.sampler = Sampler(
      self.policy,
      self.sampling,
      stop_ids=() if work.fill == 1 else (STOP_ID,),
      pad_id=PAD_ID,
      mesh=self.mesh,
      rules=self.rules,
    )
    self.scorer = ActionScorer(RewardConfig())
    self.words = Words(model.vocab_size)
    self.batches = trunk_batches(work, model.vocab_size, settings.layout)
    self.key = jax.random.key(work.seed)
    params = sharding.born_sharded(
      self.policy.init, self.key, mesh=self.mesh, rules=self.rules
    )
    self.number = 0
    self.state: Any = TrainState(params, {}, None)
    if settings.trains:
      self.updater = self._updater(params)
      self.state = self.updater.init(params)

  def _updater(self, params):
    config = LossConfig()
    if self.settings.max_logits:
      config = dataclasses.replace(config, max_logits=self.settings.max_logits)
    loss_fn = grpo_loss(self.policy, config, self.sampling.temperature)
    if not self.is_shared:
      loss_fn = given_advantages(self.policy, config)
    return Updater(
      loss_fn,
      make_optimizer(OPTIM, 1),
      learning_rate(OPTIM, 1),
      params,
      self.mesh,
    )

  def prefill(self) -> Any:
    """Runs only the trunks, the first part of a round of sampling."""
    put = [self._put(batch.trunks) for batch in self.batches]
    return [self.sampler.prefill(self.state.params, x) for x in put]

  def step(self) -> dict[str, float]:
    """Samples, scores and updates; returns times and counted tokens."""
    with given_lengths(self.work):
      return self._step() if self.settings.trains else self._sample()

  def _step(self):
    clock = Clock()
    key = jax.random.fold_in(self.key, self.number)
    rounds = [
      sample_and_score(
        self.sampler,
        self.state.params,
        batch,
        key,
        scorer=self.scorer,
        tokenizer=self.words,
      )
      for batch in self.batches
    ]
    wall_s, cpu_s = clock.split()
    reward = self.scorer.spent
    self.scorer.spent = np.zeros(2)
    sampled = sum(x.branches.is_completion_NRC.sum() for x in rounds)
    found = {
      "rollout_s": wall_s - reward[0],
      "rollout_cpu_s": cpu_s - reward[1],
      "reward_cpu_s": reward[1],
      "sampled": int(sampled),
    }
    trained = self._update(list(self.micro_batches(rounds)))
    wall_s, cpu_s = clock.split()
    self.number += 1
    return found | {
      "update_s": wall_s,
      "update_cpu_s": cpu_s,
      "trained": trained,
    }

  def _sample(self):
    """Returns the part of `step`'s result that is about sampling."""
    clock = Clock()
    key = jax.random.fold_in(self.key, self.number)
    sampled = 0
    for batch in self.batches:
      branches = self.sampler.sample(self.state.params, batch.trunks, key)
      sampled += int(branches.is_completion_NRC.sum())
    wall_s, cpu_s = clock.split()
    self.number += 1
    return {"rollout_s": wall_s, "rollout_cpu_s": cpu_s, "sampled": sampled}

  def _update(self, batches):
    counted = sum(int((b.completion_tokens_NBW > 0).sum()) for b in batches)
    self.state, metrics, _ = self.updater.update(
      self.state, [self._put(batch) for batch in batches], self.number
    )
    jax.block_until_ready(self.state)
    if self.is_shared:
      # The number of tokens is the one that the loss reports.
      counted = sum(int(of_batch.tokens_trained) for of_batch in metrics)
    return counted

  def micro_batches(self, rounds: list[Round]) -> Iterable[MicroBatch]:
    """Packs the samples for the update, on the host."""
    if not self.is_shared:
      return self._flat_batches(rounds)
    [trunks], [done] = [batch.trunks for batch in self.batches], rounds
    groups = groups_lib.make_groups(
      trunks,
      done.branches,
      done.scores.reward_NKG,
      np.zeros(trunks.is_real_NK.shape, np.int32),
      self.work.is_kept,
      update_step=self.number,
      round_index=0,
    )
    trunks = self.settings.trunks_per_micro_batch or self.work.trajectories
    branches = self.work.steps * self.work.samples
    filled = self.work.fill * self.work.kept
    shape = pack_shape(trunks, multiple=1, branches=branches, filled=filled)
    return pack(groups, shape, update_step=self.number)

  def _flat_batches(self, rounds):
    """Returns a micro-batch of N * G rows per expert step."""
    n, k, g = self.work.trajectories, self.work.steps, self.work.samples
    merge = lambda *xs: np.concatenate(xs)  # noqa: E731
    branches = jax.tree.map(merge, *(x.branches for x in rounds))
    reward_B = merge(*(x.scores.reward_NKG.ravel() for x in rounds))
    # Rows are ordered (k, n, g), whatever the number of batches.
    advantage_B = advantages.group_advantages(reward_B.reshape(k * n, g))
    advantage_B = np.asarray(advantage_B).reshape(-1, 1)
    for step in range(k):
      rows = slice(step * n * g, (step + 1) * n * g)
      batch = self.batches[step if len(self.batches) > 1 else 0]
      where = slice(None) if len(self.batches) > 1 else rows
      yield lanes_of(
        jax.tree.map(lambda x, at=where: x[at], batch.trunks),
        jax.tree.map(lambda x, at=rows: x[at], branches),
        advantage_B[rows],
      )

  def _put(self, batch):
    return sharding.put_batch(batch, self.mesh, self.rules)
