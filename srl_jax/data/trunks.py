# SPDX-License-Identifier: Apache-2.0
"""Tokenises trajectories into trunks and marks their branch points.

Each expert step gives one branch point (paper section 3). Its context is the
problem and the steps before it; its target is the step itself. All branch
points of a trajectory share one trunk. Branch point k leaves it after step k-1:

  trunk    problem | step 1 | step 2          (step 3 is only a target)
           ^at[0]    ^at[1]   ^at[2]

Segments are tokenised one by one, so trunk.tokens[:at] are exactly the tokens
of a prompt that ends there. Padding and batches are in batching.py.
"""

from __future__ import annotations

import dataclasses
import warnings
import zlib
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import numpy as np

from srl_jax import strict
from srl_jax.data.build_report import (
  BuildReport,
  LengthStats,
  expected_trunk_tokens,
)
from srl_jax.data.templates import (
  Segment,
  Task,
  Template,
  encode_segment,
  encode_written,
)
from srl_jax.rewards import format
from srl_jax.tokenizers import UnspellableError
from srl_jax.trajectory import Step, Trajectory


@dataclasses.dataclass(frozen=True)
class TrunkConfig:
  """Which branch points a trajectory gives.

  Attributes:
    task: "step" predicts each next step, "solve" the whole solution.
    starts: where solutions begin: at the "problem", or at "every_step": also
      after each of the expert's steps, whence the model writes the rest. With
      a reward of the answer this is R3, which lets hard problems be learnt from
      near their ends (Xi et al. 2024, arXiv 2402.05808; its mixture of all
      stages). For task "solve" only.
    last_step: whether the last step is a target too. Read literally, the paper
      predicts steps 1..N-1 only ("exclude"). The default keeps the last step:
      a model that solves problems turn by turn must learn to finish, and the
      last step holds the final answer (experiments/targets.py compares the
      two).
    step_title_hint: puts the number and title of the step into the prompt and
      leaves them out of the target (paper, footnote 1;
      experiments/targets.py). Untitled steps get no hint.
    context_turns: number of earlier steps in the context; 0 shows all of them.
      With m > 0, as for agents, the context is the problem and the last m
      steps, and each branch point has a trunk of its own.
    max_trunk_tokens: longest context in tokens; branch points with a longer
      one are dropped. 0 drops none.
    max_target_tokens: longest expert target in tokens, stop token included;
      branch points with a longer one are dropped. 0 drops none.
    points_per_trunk: how many steps of one trajectory share a batch, drawn
      anew at each visit; 0 for all. Fewer steps mix trajectories better but
      share less computation (see BuildReport.prompt_tokens). Trunks with
      context_turns, and of whole solutions, have one point in any case.
  """

  # Targets of SFT may begin with thoughts: see ExpertTrunkConfig.
  include_thoughts: ClassVar[bool] = False

  task: Task = "step"
  starts: Literal["problem", "every_step"] = "problem"
  last_step: Literal["include", "exclude"] = "include"
  step_title_hint: bool = False
  context_turns: int = 0
  max_trunk_tokens: int = 0
  max_target_tokens: int = 0
  points_per_trunk: int = 0

  def __post_init__(self):
    strict.check_literals(self)
    strict.check_numbers(
      self,
      context_turns="[0, )",
      max_trunk_tokens="[0, )",
      max_target_tokens="[0, )",
      points_per_trunk="[0, )",
    )
    if self.starts != "problem" and self.task != "solve":
      raise ValueError(
        f"starts={self.starts!r} is for solutions; set task='solve', or starts "
        "to 'problem'"
      )
    if self.context_turns and self.points_per_trunk > 1:
      raise ValueError(
        f"points_per_trunk={self.points_per_trunk} has no effect: with "
        "context_turns each branch point has its own trunk; set it to 0"
      )


def check_solutions(config: TrunkConfig, stage: str) -> None:
  """Refuses settings that only single steps have, for whole solutions.

  Args:
    config: of task "solve".
    stage: name of the stage, for the message.

  Raises:
    ValueError: one of them is set.
  """
  names = ["last_step", "step_title_hint"]
  if config.starts == "problem":
    names += ["context_turns", "points_per_trunk"]
  for name in names:
    value, default = getattr(config, name), getattr(TrunkConfig(), name)
    if value != default:
      raise ValueError(
        f"{stage}.trunks.{name}={value!r} has no effect with {stage}.trunks."
        f"task='solve': it is for single steps; leave it at {default!r}"
      )


@dataclasses.dataclass(frozen=True)
class ExpertTrunkConfig(TrunkConfig):
  """Which branch points are made of a trajectory for SFT.

  Attributes:
    include_thoughts: expert targets for SFT begin with the step's thought
      between think tags. Single steps without one are dropped, because they
      would teach not to think; whole solutions have the thoughts there are.
  """

  include_thoughts: bool = False


@dataclasses.dataclass(frozen=True)
class BranchPoint:
  """Where branches leave a trunk, and what the expert did there.

  Attributes:
    step: 0-based index of the step to predict; for task "solve", of the first
      step of what is left of the solution.
    at: number of trunk tokens that its branches see.
    stem: the given tokens at the head of its branches, int32.
    target: the text that the reward compares with. For task "step" it is the
      expert's step; for "solve" the reference answer, or "" if unknown.
    target_tokens: the tokens that SFT trains on, stop token included, int32.
    point_id: uint32 name of the branch point; the random numbers of its
      samples derive from it.
  """

  step: int
  at: int
  stem: np.ndarray
  target: str
  target_tokens: np.ndarray
  point_id: int


@dataclasses.dataclass(frozen=True)
class Trunk:
  """A tokenised trunk (int32) and its branch points, in order of `at`.

  The tokens spell the trajectory's problem and some of its steps.
  """

  trajectory: Trajectory
  tokens: np.ndarray
  points: tuple[BranchPoint, ...]


def of_first_trajectories(trunks: Sequence[Trunk], most: int) -> list[Trunk]:
  """Returns the trunks of the first `most` trajectories; of all for 0.

  With context_turns a trajectory has a trunk for each of its steps.
  """
  ids = list(dict.fromkeys(trunk.trajectory.id for trunk in trunks))
  first = set(ids[: most or None])
  return [trunk for trunk in trunks if trunk.trajectory.id in first]


def build_trunks(
  trajectories: Iterable[Trajectory],
  template: Template,
  tokenizer,
  config: TrunkConfig,
) -> tuple[list[Trunk], BuildReport]:
  """Tokenises trajectories into trunks and keeps their order.

  Args:
    trajectories: any iterable; it is read once.
    template: the wording of the prompts (templates.py).
    tokenizer: an object with encode(text), special_id(name) and control_names.
    config: which branch points to make.

  Returns:
    The trunks, each with at least one branch point, and the report.

  Raises:
    ValueError: the tokenizer lacks a control token of the template.
  """
  builder = _Builder(template, tokenizer, config)
  trunks: list[Trunk] = []
  count = without_answer = 0
  for trajectory in trajectories:
    count += 1
    without_answer += trajectory.answer is None
    trunks.extend(builder.trunks(trajectory))
  points = [point for trunk in trunks for point in trunk.points]
  report = BuildReport(
    trajectories=count,
    trunks=len(trunks),
    points=len(points),
    without_answer=without_answer,
    lengths={
      "trunk": LengthStats.of([len(r.tokens) for r in trunks]),
      "stem": LengthStats.of([len(p.stem) for p in points]),
      "target": LengthStats.of([len(p.target_tokens) for p in points]),
    },
    drops={reason: tuple(ids) for reason, ids in builder.drops.items()},
    points_per_trunk=config.points_per_trunk,
    context_tokens=sum(point.at for point in points),
    trunk_tokens=sum(
      expected_trunk_tokens([p.at for p in r.points], config.points_per_trunk)
      for r in trunks
    ),
    stem_tokens=sum(len(point.stem) for point in points),
  )
  return trunks, report


class _Builder:
  """The state that all trajectories of one build_trunks call share."""

  def __init__(self, template: Template, tokenizer, config: TrunkConfig):
    self._template = template
    self._tokenizer = tokenizer
    self._config = config
    self._stems: dict[Segment, np.ndarray] = {}
    self._end = self._encode(template.end())
    self.drops: dict[str, list[str]] = {}

  def trunks(self, trajectory: Trajectory) -> list[Trunk]:
    """One trunk, or one per step with context_turns; [] if all is dropped."""
    try:
      return self._trunks(trajectory)
    except UnspellableError as error:
      reason = "text with bytes for which the tokenizer has no tokens"
      if reason not in self.drops:
        warnings.warn(
          f"{trajectory.id} and every trajectory like it is dropped: {error}",
          stacklevel=3,
        )
      for index in range(self._points_of(trajectory)):
        if self._config.task == "solve" or trajectory.steps[index].is_target:
          self._drop(reason, trajectory, index)
      return []

  def _points_of(self, trajectory: Trajectory) -> int:
    """How many branch points a trajectory has before any is dropped."""
    config = self._config
    if config.task == "solve" and config.starts == "problem":
      return 1
    is_short = config.last_step == "exclude" and config.task == "step"
    return len(trajectory.steps) - is_short

  def _trunks(self, trajectory: Trajectory) -> list[Trunk]:
    config, template = self._config, self._template
    head = self._encode(template.problem(trajectory, config.task))
    is_solving = config.task == "solve"
    if is_solving and config.starts == "problem":
      return self._make(trajectory, [head], [self._solve(trajectory, 0)])
    end = self._points_of(trajectory)
    if not end:
      self._drop("no step is left by last_step='exclude'", trajectory, 0)
    segments = [
      self._encode(template.step(step, number))
      for number, step in enumerate(trajectory.steps[: max(end - 1, 0)], 1)
    ]
    # Not in the head: the prompt of a whole solution has no steps under it.
    heading = self._encode(template.heading(trajectory)) if is_solving else []
    point_of = self._solve if is_solving else self._step
    points = [point_of(trajectory, k) for k in range(end)]
    if not config.context_turns:
      points[1:1] = [None]  # None comes after the heading.
      return self._make(trajectory, [head, heading, *segments], points)
    trunks = []
    for k, point in enumerate(points):
      window = segments[max(0, k - config.context_turns) : k]
      window = [head, heading, *window] if k else [head]
      # None for earlier segments: the point comes after the whole window.
      of_window = [None] * (len(window) - 1) + [point]
      trunks += self._make(trajectory, window, of_window)
    return trunks

  def _make(
    self,
    trajectory: Trajectory,
    segments: list[list[int]],
    points: list[BranchPoint | None],
  ) -> list[Trunk]:
    """Places points[i] after segments[i] and keeps those that fit."""
    kept = []
    tokens: list[int] = []
    for segment, point in zip(segments, points, strict=False):
      tokens += segment
      if point is not None and self._fits(trajectory, point, len(tokens)):
        kept.append(dataclasses.replace(point, at=len(tokens)))
    if not kept:
      return []
    # No branch sees the tokens after the last branch point.
    trunk = np.asarray(tokens[: kept[-1].at], np.int32)
    return [Trunk(trajectory, trunk, tuple(kept))]

  def _step(self, trajectory: Trajectory, index: int) -> BranchPoint | None:
    step, number = trajectory.steps[index], index + 1
    reason = "" if step.is_target else "steps for the context only"
    if not reason and self._config.include_thoughts and not step.thought:
      reason = "no thought, with include_thoughts=True"
    if reason:
      self._drop(reason, trajectory, index)
      return None
    title = step.title if self._config.step_title_hint else None
    action = self._template.action(step, number, hinted=title is not None)
    text = self._thought(step) + action
    return self._point(trajectory, index, title, action, text)

  def _solve(self, trajectory: Trajectory, index: int) -> BranchPoint:
    # A solution in one go cannot contain what an environment would answer, and
    # its stop token follows the last word.
    steps = [
      self._thought(step) + self._template.action(step, number)
      for number, step in enumerate(trajectory.steps[index:], index + 1)
    ]
    text = self._template.gap.join(steps).rstrip()
    return self._point(trajectory, index, None, trajectory.answer or "", text)

  def _point(
    self,
    trajectory: Trajectory,
    index: int,
    title: str | None,
    target: str,
    text: str,
  ) -> BranchPoint:
    tokens = encode_written(self._tokenizer, text)
    stem = self._template.stem(self._config.task, index + 1, title)
    if stem not in self._stems:
      self._stems[stem] = np.asarray(self._encode(stem), np.int32)
    return BranchPoint(
      step=index,
      at=0,
      stem=self._stems[stem],
      target=target,
      target_tokens=np.asarray([*tokens, *self._end], np.int32),
      point_id=zlib.crc32(self._name(trajectory, index).encode("utf-8")),
    )

  def _fits(self, trajectory: Trajectory, point: BranchPoint, at: int) -> bool:
    """Whether the point can be trained on; otherwise records the reason."""
    is_step = self._config.task == "step"
    trunk, target = (
      self._config.max_trunk_tokens,
      self._config.max_target_tokens,
    )
    reason = None
    if is_step and not point.target:
      reason = "nothing to predict beyond the title"
    elif is_step and format.THINK_TAG.search(point.target):
      # The format takes it for a thought: no completion could be right.
      reason = "a think tag in the target"
    elif 0 < trunk < at:
      reason = f"context over max_trunk_tokens={trunk}"
    elif 0 < target < len(point.target_tokens):
      reason = f"target over max_target_tokens={target}"
    if reason:
      self._drop(reason, trajectory, point.step)
    return reason is None

  def _drop(self, reason: str, trajectory: Trajectory, index: int):
    self.drops.setdefault(reason, []).append(self._name(trajectory, index))

  def _name(self, trajectory: Trajectory, index: int) -> str:
    return f"{trajectory.id}/{self._config.task}/{index}"

  def _thought(self, step: Step) -> str:
    is_shown = self._config.include_thoughts and step.thought
    return format.think_block(step.thought) if is_shown else ""

  def _encode(self, segment: Segment) -> list[int]:
    return encode_segment(self._tokenizer, segment)
