# SPDX-License-Identifier: Apache-2.0
"""RL on outcomes: an agent acts turn by turn, and what counts is the end.

A problem's episodes are a group. The reward of an episode is 1 if its problem
is solved and else 0, and all its turns share its advantage. An episode whose
environment cannot tell is left out of its group. Each turn is a branch of its
own context (update/turns.py), so that the model is trained on what it saw.
Problems whose episodes all end alike teach nothing and are dropped. If none is
left after the last round of sampling, the update step is skipped: the
parameters stay as they are.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from srl_jax import progress, sharding
from srl_jax.data.templates import encode_segment
from srl_jax.rollout import record
from srl_jax.rollout.episodes import Episode, EpisodeRules, sample_episodes
from srl_jax.rollout.requests import Request
from srl_jax.sharding import abstract
from srl_jax.train import memory
from srl_jax.train.batch_shapes import micro_batch_trunks, update_shape
from srl_jax.train.episode_rewards import (
  EpisodeRound,
  as_rewarded,
  is_differing,
  is_judged,
  rewards_of,
  sampling_metrics,
)
from srl_jax.train.memory import DoesNotFitError, Program
from srl_jax.train.problems import Problems, with_judgeable, with_room
from srl_jax.train.rl_config import EpisodesConfig
from srl_jax.train.rl_setup import check_logp_gap, make_updater
from srl_jax.train.stage import Batch, Dispatched, Run, check_finite, update_on
from srl_jax.trajectory import Trajectory
from srl_jax.update import turns as turns_lib
from srl_jax.update.pack_shapes import best_shape, with_rows_of_one
from srl_jax.update.packing import PackShape, pack
from srl_jax.update.turns import RewardedEpisode, Turn, Turns
from srl_jax.update.updater import TrainState, compiled_count

# Lanes for each turn that an episode can have: half of them, half as long.
_LANES_PER_TURN = 0.25


class EpisodesStage:
  """GRPO on whole episodes, with dynamic sampling of problems."""

  columns = (
    "solved {reward:.3f}",
    "kept {groups_kept:.0f}/{groups_sampled:.0f} problems",
    "{tokens_per_s:,.0f} tokens/s",
  )
  description = "rewards by the outcome of episodes"

  def __init__(self, run: Run, name: str, config: EpisodesConfig):
    """Finds the problems; nothing is sampled yet.

    Raises:
      ValueError: the settings do not fit data, model or mesh.
    """
    self._run, self.name, self.config = run, name, config
    if config.keep_all:
      self.columns += ("outcomes differ in {differing_share:.0%}",)
    self.uses_reference = config.loss.uses_reference
    run = with_judgeable(run, name)
    self._rules, self._widths = self._make_rules()
    room = self._widths[1], self._rules.max_positions
    train = with_room(run, name, "train", *room)
    self._problems = Problems(train, run.seed, name)
    valid = with_room(run, name, "valid", *room)
    self._valid = valid[: config.validation_trajectories or None]
    self._jitted: dict[str, Any] = {}

  def _make_rules(self) -> tuple[EpisodeRules, tuple[int, int]]:
    """How episodes go, and the widths of contexts and of branches."""
    run, config = self._run, self.config
    new = config.max_new_tokens
    stem = max(map(len, (self._stem(i) for i in range(config.turns))))
    most = run.policy.config.max_positions
    if config.max_context_tokens:
      most = min(most, config.max_context_tokens + stem + new)
    rules = EpisodeRules(
      task="step",
      turns=config.turns,
      context_turns=config.context_turns,
      max_positions=most,
      request=functools.partial(
        Request, max_new_tokens=new, temperature=config.temperature
      ),
      template=run.template,
      tokenizer=run.tokenizer,
    )
    return rules, (most - new, stem + new)

  def _stem(self, turn: int) -> list[int]:
    stem = self._run.template.stem("step", turn + 1)
    return encode_segment(self._run.tokenizer, stem)

  def prepare(self, params: Any) -> None:
    self.updater = make_updater(
      self._run, self.config, self.config.temperature, params
    )

  @property
  def _shapes(self):
    config = self.config
    largest = update_shape(
      self._run,
      micro_batch_trunks(self._run, config.trunks_per_micro_batch),
      config.turns,
      config.lanes_per_branch or _LANES_PER_TURN,
    )
    return with_rows_of_one(largest, self._widths[0])

  def plan(self) -> Iterator[Program]:
    run, config = self._run, self.config
    state = self.updater.abstract_state()
    reference = state.trained if self.uses_reference else None
    key = run.key(self.name)
    count = config.problems_per_round * config.samples
    stream = run.stream(None, "step", rows=count, slots=1, key=key)
    with contextlib.suppress(DoesNotFitError):
      yield from memory.decoding_programs(
        stream.at_widest(self._widths[0], config.max_new_tokens, goes_on=True),
        params=state.params,
        key=abstract.scalar(key, run.mesh),
        remedy=f"lower c.{self.name}.problems_per_round, samples or "
        "max_context_tokens, or raise c.mesh.tensor",
        beside_bytes=memory.bytes_per_device((state.opt_state, reference)),
      )
    nothing = self._turns([], 0)
    yield from memory.update_programs(
      self.updater,
      [
        abstract.batch(batch, shape.rows, run.mesh, run.rules)
        for shape in self._shapes
        for batch in self._pack(nothing, shape, 0)
      ],
      mesh=run.mesh,
      name=self.name,
      rows_multiple=sharding.batch_devices(run.mesh, run.rules),
      narrower="max_context_tokens",
      has_reference=self.uses_reference,
    )

  def take_update(
    self, state: TrainState, update_step: int, reference: Any
  ) -> tuple[TrainState, Dispatched]:
    problems, values = self._sampled(state.params, update_step)
    packed = []
    if problems:
      turns = self._turns(problems, update_step)
      shape = best_shape(turns.groups, self._shapes)
      packed = self._pack(turns, shape, update_step)
    # Without micro-batches the step changes no parameter, and the schedule of
    # the learning rate counts it.
    return update_on(
      Batch(map(self._run.put, packed), values),
      self.updater,
      state,
      update_step=update_step,
      passes=self.config.passes,
      reference=reference,
    )

  def _sampled(
    self, params: Any, update_step: int
  ) -> tuple[list[list[RewardedEpisode]], dict[str, float]]:
    """Samples rounds until enough problems are kept; consumes problems."""
    config = self.config
    kept: list[list[RewardedEpisode]] = []
    rounds: list[EpisodeRound] = []
    while (
      len(rounds) < config.max_rounds and len(kept) < config.groups_per_batch
    ):
      what = (
        f"{self.name}: update step {update_step + 1}, sampling round "
        f"{len(rounds) + 1}, {len(kept)} of {config.groups_per_batch} "
        "problems kept"
      )
      with progress.task(what):
        key = self._run.key(self.name, "sample", update_step, len(rounds))
        rounds.append(self._round(params, key))
      for episodes in rounds[-1].episodes:
        if self._is_kept(episodes):
          kept.append([self._outcome(x) for x in episodes if is_judged(x)])
    self._record(rounds[0], update_step)
    return kept, sampling_metrics(rounds, len(kept))

  def _is_kept(self, episodes: Sequence[Episode]) -> bool:
    """Whether to train on a problem."""
    if self.config.keep_all:
      return bool(rewards_of(episodes))
    return is_differing(episodes)

  def _record(self, round_: EpisodeRound, update_step: int) -> None:
    """Keeps some episodes of training for people to look at."""
    recorder, config = self._run.recorder, self.config
    if not recorder or not recorder.is_due_in_training(
      update_step, config.update_steps
    ):
      return
    count = recorder.config.trajectories
    ids = record.recurring_ids(round_.problems, count)
    rows = []
    for problem, episodes in zip(round_.problems, round_.episodes, strict=True):
      if problem.id in ids:
        kept = self._is_kept(episodes)
        rows += record.rows_of_episodes(problem, episodes, kept)
    self._run.keep_rollouts(self.name, "train", update_step, rows)

  def _round(self, params: Any, key: jax.Array) -> EpisodeRound:
    problems, epochs = self._problems.take(self.config.problems_per_round)
    samples = self.config.samples
    # A problem that comes again in the next epoch gets other random numbers.
    firsts = [samples * (epoch - epochs[0]) for epoch in epochs]
    # As in rollout/rounds.py.
    jax.block_until_ready(params)
    start_s = time.monotonic()
    episodes = self._episodes(params, problems, samples, key, firsts)
    return EpisodeRound(problems, episodes, time.monotonic() - start_s)

  def _episodes(
    self,
    params: Any,
    problems: Sequence[Trajectory],
    samples: int,
    key: jax.Array,
    firsts: Sequence[int],
  ) -> list[list[Episode]]:
    """Samples episodes of each problem, in the order of the samples.

    The samples of a problem are numbered from its entry in `firsts` on, which
    is a multiple of their number.
    """
    wanted = [
      (index, first + sample)
      for index, first in enumerate(firsts)
      for sample in range(samples)
    ]
    # No more rows than in a round of sampling, which the plan has room for.
    most = self.config.problems_per_round * self.config.samples
    is_wide = self._run.policy.reads_what_is_seen
    stream = self._run.stream(
      params,
      "step",
      rows=min(len(wanted), most),
      slots=1,
      key=key,
      # Where width costs no time, there are no programs for narrower trunks.
      trunk_width=self._widths[0] if is_wide else 0,
    )
    self._jitted = stream.jitted
    episodes: list[list[Any]] = [[None] * samples for _ in problems]
    found = sample_episodes(stream, problems, wanted, self._rules)
    with contextlib.closing(found):
      for episode in found:
        place = episode.sample % samples
        episodes[episode.problem][place] = as_rewarded(episode)
    return episodes

  def _outcome(self, episode: Episode) -> RewardedEpisode:
    turns = []
    for number, drawn in enumerate(episode.drawn):
      stem = self._stem(number)
      context = drawn.request.tokens[: -len(stem)]
      turns.append(Turn(context, stem, drawn.tokens, drawn.logps))
    return RewardedEpisode(tuple(turns), float(episode.is_correct))

  def _turns(
    self, problems: Sequence[Sequence[RewardedEpisode]], update_step: int
  ) -> Turns:
    trunk_width, branch_width = self._widths
    return turns_lib.make_turns(
      problems,
      trunk_width=trunk_width,
      branch_width=branch_width,
      update_step=update_step,
      divide_by_std=self.config.loss.divide_by_group_std,
    )

  def _pack(self, turns: Turns, shape: PackShape, update_step: int):
    return pack(
      turns.groups,
      shape,
      update_step=update_step,
      advantage_PG=turns.advantage_PG,
    )

  def validate(
    self, params: Any, update_step: int
  ) -> tuple[float, dict[str, float]]:
    # The same random numbers at every moment.
    key = self._run.key(self.name, "validate")
    firsts = [0] * len(self._valid)
    episodes = self._episodes(params, self._valid, 1, key, firsts)
    recorder, config = self._run.recorder, self.config
    if recorder and recorder.is_due_in_validation(
      update_step, config.update_steps, config.validate_every
    ):
      pairs = zip(self._valid, episodes, strict=True)
      rows = []
      for pair in itertools.islice(pairs, recorder.config.trajectories):
        rows += record.rows_of_episodes(*pair, None)
      self._run.keep_rollouts(self.name, "valid", update_step, rows)
    judged = rewards_of([episode for [episode] in episodes])
    unjudged = len(episodes) - len(judged)
    values = {"validation_no_verdict": unjudged / len(episodes)}
    if judged:
      values["validation_reward"] = float(np.mean(judged))
    if unjudged:
      progress.warn(
        f"{unjudged} of {len(episodes)} validation episodes of {self.name} "
        "have no verdict, as their environments could not tell (see the log); "
        "to choose the best parameters they count as not solved"
      )
    return sum(judged) / len(episodes), values

  def check(self, values: dict[str, float]) -> None:
    if not values["skipped_updates"]:
      check_finite(values)
      check_logp_gap(self.name, self.config, values)

  def compiled_count(self) -> int:
    return compiled_count(*self._jitted.values())

  def get_state(self) -> tuple[dict[str, Any], Any]:
    return self._problems.get_state(), {}

  def set_state(self, data: dict[str, Any], pool: Any) -> None:
    del pool
    self._problems.set_state(data)

  def close(self) -> None:
    pass
