# SPDX-License-Identifier: Apache-2.0
"""The reward of one completion, and the config that says which it is.

A reward function gets the action a model wrote and the expert's text and
returns a number. To plug in one's own, write such a function in any importable
module and set reward.function to "package.module:name":

  def shorter_is_better(action: str, target: str) -> float:
    return difflib_ratio(action, target) - 0.001 * len(action)

One that executes the action, or judges it in the state that the steps before
have led to, also takes a parameter of the name `context`, a RewardContext:

  def runs(action: str, target: str, *, context: RewardContext) -> float:
    return float(executes([step.text for step in context.steps], action))

Many completions and worker processes are srl_jax.rewards.scorer; advantages,
filters and anything else to do with groups come later.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import math
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from srl_jax import strict
from srl_jax.processes import failures
from srl_jax.rewards import answers, format, similarity
from srl_jax.trajectory import Step

# (action, target), and the keyword `context` if it has such a parameter.
RewardFunction = Callable[..., float]


class Completion(NamedTuple):
  """What a model wrote.

  Attributes:
    text: without the stop token.
    stopped: whether a stop token ended it.
    tokens: number of its tokens, stop token included; 0 if nobody counted.
  """

  text: str
  stopped: bool
  tokens: int = 0


class RewardContext(NamedTuple):
  """Where an action was taken, for reward functions that want to know.

  Attributes:
    thought: what the model thought before the action.
    problem: the question.
    steps: the steps before the action, with what the environment answered.
    step: the action's number, from 0; how many steps there are in `steps`.
    trajectory_id: id of the expert's trajectory.
    domain: name of its domain.
    answer: the reference answer, if there is one.
    metadata: of the trajectory.
    completion_tokens: tokens that the model wrote, thought and stop token
      included; 0 for a verdict on an episode.
    max_new_tokens: the limit of `completion_tokens`; 0 for a verdict on an
      episode.
  """

  thought: str
  problem: str
  steps: tuple[Step, ...]
  step: int
  trajectory_id: str
  domain: str
  answer: str | None
  metadata: Mapping[str, str]
  completion_tokens: int = 0
  max_new_tokens: int = 0


class Scored(NamedTuple):
  """The reward of one completion.

  Attributes:
    reward: what is trained on.
    value: the reward function's value; nan where the format is broken.
    failure: one of format.FAILURES.
    thought_chars: characters in think blocks, also where they are broken.
    action_chars: characters outside of them.
  """

  reward: float
  value: float
  failure: str
  thought_chars: int
  action_chars: int


class RewardError(failures.RecurringError):
  """A reward function failed; says on which completion."""


@dataclasses.dataclass(frozen=True)
class RewardConfig:
  """How completions are rewarded.

  Attributes:
    function: "difflib" (the paper's), "levenshtein", "answer" (final answer
      right or wrong, 1 or 0), one's own as "package.module:name", or "domain"
      for what the domain of the data says: its reward where the task is the
      next step, its verdict where it is the whole solution.
    autojunk: difflib's heuristic for long texts; only with "difflib", only
      for comparison (see similarity.difflib_ratio).
    check: "step" wants exactly one think block and then the action; "solution"
      allows think blocks anywhere and only wants a complete output; "auto" is
      "solution" for "answer", and where a domain's function or your own judges
      whole solutions, else "step".
    broken_format_reward: the reward where the check "step" fails (paper,
      section 3.3: -1). An output that fails "solution" is simply wrong: 0.
  """

  function: str = "difflib"
  autojunk: bool = False
  check: Literal["auto", "step", "solution"] = "auto"
  broken_format_reward: float = -1.0

  def __post_init__(self) -> None:
    strict.check_literals(self)
    strict.check_numbers(self, broken_format_reward="[-1e6, 1e6]")
    known = (*_BUILT_IN, "domain")
    if self.function not in known and ":" not in self.function:
      raise ValueError(
        f"reward.function is {self.function!r}; it must be one of "
        f'{", ".join(known)} or your own as "package.module:name".'
      )
    if self.autojunk and self.function not in ("domain", "difflib"):
      raise ValueError(
        f"reward.autojunk is on but reward.function is {self.function!r}; "
        "only difflib has it. Set reward.autojunk to False."
      )

  def for_task(self, task: Literal["step", "solve"]) -> RewardConfig:
    """Returns the config with what "auto" asks of the format of solutions."""
    is_own = self.function == "domain" or ":" in self.function
    if task == "solve" and self.check == "auto" and is_own:
      return dataclasses.replace(self, check="solution")
    return self

  def refuse_unread(self, task: Literal["step", "solve"]) -> None:
    """Refuses for a new run what its reward would not read.

    Not at construction, because runs of earlier versions have such settings.

    Raises:
      ValueError: broken_format_reward is set, and no format can be broken.
    """
    broken, default = self.broken_format_reward, type(self).broken_format_reward
    if broken != default and not self.for_task(task).is_of_steps:
      raise ValueError(
        f"broken_format_reward={broken} has no effect, because an incomplete "
        f"solution is wrong and gets 0; leave it at {default}, or set check to "
        "'step'"
      )

  @property
  def is_of_steps(self) -> bool:
    """Whether a completion must have the format of a step."""
    return self.check == "step" or (
      self.check == "auto" and self.function != "answer"
    )


@dataclasses.dataclass(frozen=True)
class WorkersConfig:
  """Which processes compute rewards on the host; it changes no reward.

  Attributes:
    count: number of processes that score in parallel; 0 scores in the
      training process, where nothing ends a function that hangs. -1 is one
      per core, up to 4, for a function of your own, and 0 for a built-in one.
    timeout_s: seconds after which a worker's chunk of at most 64 completions
      is given up with an error.
  """

  count: int = -1
  timeout_s: float = 300.0

  def __post_init__(self) -> None:
    strict.check_numbers(self, count="[-1, )", timeout_s="(0, )")

  def processes(self, function: str) -> int:
    """Returns the number of processes for a reward function."""
    if self.count >= 0:
      return self.count
    # Workers cannot import what is in the notebook or script itself.
    is_own = ":" in function and not function.startswith(
      ("__main__:", "srl_jax.")
    )
    return min(4, os.cpu_count() or 1) if is_own else 0


_BUILT_IN = {
  "difflib": similarity.difflib_ratio,
  "levenshtein": similarity.levenshtein_ratio,
  "answer": answers.answer_reward,
}
_FLOAT32_MAX = 3.4028235e38
# Those whose value says how alike two texts are, from 0 to 1.
SIMILARITIES = ("difflib", "levenshtein")


def find_function(config: RewardConfig) -> RewardFunction:
  """Returns the reward function that config names.

  Raises:
    ValueError: a user's function cannot be imported or called, or a library
      for a built-in one is not installed.
  """
  if config.function == "domain":
    raise ValueError(
      "reward.function 'domain' is known only where there are data; name the "
      f"function itself, one of {', '.join(_BUILT_IN)} or your own"
    )
  if config.function in _BUILT_IN:
    function = _BUILT_IN[config.function]
    # A library that it needs is missed here, not at the first completion.
    function("", "")
    if config.autojunk:
      return functools.partial(function, autojunk=True)
    return function
  module, _, name = config.function.partition(":")
  try:
    function = getattr(importlib.import_module(module), name)
  except Exception as error:
    raise ValueError(
      f"reward.function {config.function!r} cannot be imported: "
      f"{type(error).__name__}: {error}. Put the module where Python finds it "
      "(the folder you start from, or PYTHONPATH)."
    ) from error
  if not callable(function):
    raise ValueError(
      f"reward.function {config.function!r} is a {type(function).__name__}, "
      "not a function of (action, target)."
    )
  return function


def source_of(name: str) -> bytes:
  """Returns the code of "package.module:name", which has been imported.

  It is empty for what was typed in a notebook and for what is no function.
  """
  module, _, attribute = name.partition(":")
  imported = sys.modules[module]
  if module != "__main__":
    return pathlib.Path(imported.__file__).read_bytes()
  try:
    return inspect.getsource(getattr(imported, attribute)).encode()
  except (OSError, TypeError):  # It was typed, or it is no function.
    return b""


def wants_context(function: RewardFunction) -> bool:
  """Whether a reward function has a parameter of the name `context`."""
  try:
    return "context" in inspect.signature(function).parameters
  except (TypeError, ValueError):  # It is written in C and does not say.
    return False


def score_one(
  config: RewardConfig,
  function: RewardFunction,
  completion: Completion,
  target: str,
  context: RewardContext | None = None,
) -> Scored:
  """Returns the reward of one completion.

  The context, if the function wants one, gets the thought and the number of
  tokens put in.

  Raises:
    RewardError: the function raised or exited, or returned no number that
      is finite in float32.
  """
  text, stopped, tokens = completion
  is_step = config.is_of_steps
  parsed = format.split_lenient(text)
  chars = len(parsed.thought), len(parsed.action)
  if is_step:
    parsed = format.split(text, stopped)
  elif not stopped:
    parsed = parsed._replace(failure="not_stopped")
  if parsed.failure:
    reward = config.broken_format_reward if is_step else 0.0
    return Scored(reward, math.nan, parsed.failure, *chars)
  target = target.strip(format.WHITESPACE)
  more = {}
  if context is not None:
    more["context"] = context._replace(
      thought=parsed.thought, completion_tokens=tokens
    )
  passes = False
  try:
    value = float(function(parsed.action, target, **more))
    problem = "" if _fits(value) else f"it returned {value}"
  except (Exception, SystemExit) as error:
    # sys.exit(0) would else end the run as if all were well.
    passes = failures.is_of_machine(error)
    problem = "it raised:\n" + traceback.format_exc(limit=-3).rstrip()
  if problem:
    where = ""
    if context is not None:
      where = f"\n  at step {context.step + 1} of {context.trajectory_id!r}"
    raise RewardError(
      f"reward.function {config.function!r} failed: {problem}\n"
      f"  on the completion {shorten(text)}\n"
      f"  with the target   {shorten(target)}{where}",
      passes=passes,
    )
  return Scored(value, value, "", len(parsed.thought), len(parsed.action))


def _fits(value: float) -> bool:
  """Whether the device can hold a reward: it is float32 there."""
  return abs(value) <= _FLOAT32_MAX


def shorten(text: str, chars: int = 500) -> str:
  """Returns text quoted for an error message, cut to a bearable length."""
  cut = len(text) - chars
  return repr(text) if cut <= 0 else f"{text[:chars]!r} (and {cut} more)"
