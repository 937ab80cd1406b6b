# SPDX-License-Identifier: Apache-2.0
"""The reward of one completion, and the config that says which it is.

A reward function gets the action a model wrote and the expert's text and
returns a number. To plug in one's own, write such a function in any importable
module and set reward.function to "package.module:name":

  def shorter_is_better(action: str, target: str) -> float:
    return difflib_ratio(action, target) - 0.001 * len(action)

Many completions and worker processes are srl_jax.rewards.scorer; advantages,
filters and anything else to do with groups come later.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import traceback
from collections.abc import Callable
from typing import NamedTuple

from srl_jax.rewards import answers, format, similarity

RewardFunction = Callable[[str, str], float]


class Completion(NamedTuple):
  """What a model wrote, without its stop token; stopped: it wrote one."""

  text: str
  stopped: bool


class Scored(NamedTuple):
  """The reward of one completion.

  Attributes:
    reward: what is trained on.
    value: the reward function's value; nan where the format is broken.
    failure: "" or one of format.FAILURES.
    thought_chars: characters in think blocks, also where they are broken.
    action_chars: characters outside of them.
  """

  reward: float
  value: float
  failure: str
  thought_chars: int
  action_chars: int


class RewardError(RuntimeError):
  """A reward function failed; says on which completion."""


@dataclasses.dataclass(frozen=True)
class RewardConfig:
  """How completions are rewarded.

  Attributes:
    function: "difflib" (the paper's), "levenshtein", "answer" (final answer
      right or wrong, 1 or 0) or one's own as "package.module:name".
    autojunk: difflib's heuristic for long texts; only with "difflib", only
      for comparison (see similarity.difflib_ratio).
    check: "step" wants exactly one think block and then the action; "solution"
      allows think blocks anywhere and only wants a complete output; "auto" is
      "solution" for "answer", else "step".
    tags: "think", or "solution" for actions in <solution>..</solution>.
    broken_format_reward: the reward where the check "step" fails (paper,
      section 3.3: -1). An output that fails "solution" is simply wrong: 0.
    workers: processes that score in parallel; 0 scores in this one.
    timeout_s: seconds after which a worker's chunk of at most 64 completions
      is given up with an error.
  """

  function: str = "difflib"
  autojunk: bool = False
  check: str = "auto"
  tags: format.Tags = "think"
  broken_format_reward: float = -1.0
  workers: int = 0
  timeout_s: float = 300.0

  def __post_init__(self) -> None:
    if self.function not in _BUILT_IN and ":" not in self.function:
      raise ValueError(
        f"reward.function is {self.function!r}; it must be one of "
        f'{", ".join(_BUILT_IN)} or your own as "package.module:name".'
      )
    if self.autojunk and self.function != "difflib":
      raise ValueError(
        f"reward.autojunk is on but reward.function is {self.function!r}; "
        "only difflib has it. Set reward.autojunk to False."
      )
    for name, allowed in (
      ("check", ("auto", "step", "solution")),
      ("tags", format.TAGS),
    ):
      if getattr(self, name) not in allowed:
        raise ValueError(
          f"reward.{name} is {getattr(self, name)!r}; it must be one of: "
          + ", ".join(allowed)
          + "."
        )
    if self.workers < 0 or self.timeout_s <= 0:
      raise ValueError(
        f"reward.workers is {self.workers} and reward.timeout_s "
        f"{self.timeout_s}; workers must be 0 or more, the timeout positive."
      )


_BUILT_IN = {
  "difflib": similarity.difflib_ratio,
  "levenshtein": similarity.levenshtein_ratio,
  "answer": answers.answer_reward,
}


def find_function(config: RewardConfig) -> RewardFunction:
  """Returns the reward function that config names.

  Raises:
    ValueError: a user's function cannot be imported or called, or a library
      for a built-in one is not installed.
  """
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


def score_one(
  config: RewardConfig,
  function: RewardFunction,
  completion: Completion,
  target: str,
) -> Scored:
  """Returns the reward of one completion.

  Raises:
    RewardError: the function raised, or returned no finite number.
  """
  text, stopped = completion
  is_step = config.check == "step" or (
    config.check == "auto" and config.function != "answer"
  )
  parsed = format.split_lenient(text, config.tags)
  chars = len(parsed.thought), len(parsed.action)
  if is_step:
    parsed = format.split(text, stopped, config.tags)
  elif not stopped:
    parsed = parsed._replace(failure="not_stopped")
  if parsed.failure:
    reward = config.broken_format_reward if is_step else 0.0
    return Scored(reward, math.nan, parsed.failure, *chars)
  target = target.strip(format.WHITESPACE)
  try:
    value = float(function(parsed.action, target))
    problem = "" if math.isfinite(value) else f"it returned {value}"
  except Exception:
    problem = "it raised:\n" + traceback.format_exc(limit=-3).rstrip()
  if problem:
    raise RewardError(
      f"reward.function {config.function!r} failed: {problem}\n"
      f"  on the completion {shorten(text)}\n"
      f"  with the target   {shorten(target)}"
    )
  return Scored(value, value, "", len(parsed.thought), len(parsed.action))


def shorten(text: str, chars: int = 500) -> str:
  """Returns text quoted for an error message, cut to a bearable length."""
  cut = len(text) - chars
  return repr(text) if cut <= 0 else f"{text[:chars]!r} (and {cut} more)"
