# SPDX-License-Identifier: Apache-2.0
"""From sampled branches to rewards, on the device.

`DeviceReward` is a function of arrays for use inside a jitted program: it turns
tokens into bytes and code points, checks the format and computes the similarity
to the expert's step. It makes the same `Scores` as `rollout.scoring` makes on
the host with the same RewardConfig. Rewards for which `host_reason` gives a
reason stay on the host.

Axes as in types.py, and B rows (branches), U bytes of a completion, X
characters of an action, Y characters of a target.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srl_jax import strict
from srl_jax.data.batching import TrunkBatch
from srl_jax.data.trunks import Trunk
from srl_jax.device_rewards import similarity, tags, text
from srl_jax.rewards import FAILURES, RewardConfig
from srl_jax.rewards.format import THINK_CLOSE, THINK_OPEN, WHITESPACE
from srl_jax.tokenizers import Tokenizer
from srl_jax.types import Array, Branches, Scores

# RewardConfig.function -> counts the characters that two texts have in common.
_COUNTS = {
  "difflib": similarity.matching_characters,
  "levenshtein": similarity.common_subsequence,
}


@dataclasses.dataclass(frozen=True)
class DeviceRewardConfig:
  """Whether the device computes rewards, and at which static sizes.

  Attributes:
    on: "device" computes rewards in the program, "host" in Python, "auto" on
      the host on CPUs, where that was measured to be faster, and elsewhere,
      which was not measured, on the device where that is possible.
    sizes: lengths, in characters, to which actions and targets are padded;
      each has its own program. Longer texts than the last are not compared on
      the device.
    max_text_bytes: length of the longest completion in UTF-8 bytes, thought
      included. Less is used where max_new_tokens tokens cannot have as many.
    chunk_cells: upper bound on pairs * action * target characters computed at
      a time, each about 6 bytes; 0 chooses by platform.
  """

  on: Literal["auto", "device", "host"] = "auto"
  sizes: tuple[int, ...] = (128, 256, 512, 1024, 2048)
  max_text_bytes: int = 16384
  chunk_cells: int = 0

  def __post_init__(self) -> None:
    strict.check_literals(self)
    strict.check_numbers(self, max_text_bytes="[1, )", chunk_cells="[0, )")
    is_increasing = all(a < b for a, b in itertools.pairwise((0, *self.sizes)))
    allowed = similarity.MAX_CHARS
    if not (self.sizes and is_increasing):
      raise ValueError(
        f"sizes={self.sizes}; give one or more increasing lengths in "
        "characters, such as (128, 512, 2048)"
      )
    if self.sizes[-1] > allowed:
      raise ValueError(
        f"sizes={self.sizes} goes beyond {allowed} characters; compare longer "
        "texts on the host"
      )

  def cells(self, platform: str = "") -> int:
    """Returns chunk_cells, or the default of a platform ("": this one).

    On CPU a chunk must fit a core's cache: 4 times as many cells take twice as
    long per pair (measured at 400 characters). On other platforms it must keep
    the device busy; its temporaries are some 100 MB.
    """
    is_cpu = (platform or jax.default_backend()) == "cpu"
    return self.chunk_cells or (1 << 20 if is_cpu else 1 << 24)


def host_reason(
  reward: RewardConfig, device: DeviceRewardConfig, target_chars: int = 0
) -> str:
  """Returns why rewards must be computed on the host; "" if they need not.

  A single completion can still be too long for the device; see DeviceReward.

  Args:
    reward: the reward.
    device: the sizes on the device.
    target_chars: length of the longest target in characters.
  """
  if reward.function not in _COUNTS:
    return (
      f"reward.function {reward.function!r} runs on the host only; on the "
      f"device there are {' and '.join(_COUNTS)}"
    )
  if reward.autojunk:
    return "reward.autojunk is on, which only the host knows; turn it off"
  if reward.check == "solution":
    return (
      "reward.check is 'solution'; on the device there is only the check 'step'"
    )
  if target_chars > device.sizes[-1]:
    return (
      f"the longest target has {target_chars} characters, more than the "
      f"largest of sizes={device.sizes}; add a larger one, or drop long "
      "targets with max_target_tokens"
    )
  return ""


class Targets(NamedTuple):
  """The expert's texts, stripped of white space.

  Attributes:
    code_NKY: int32 code points, padded with 0.
    length_NK: int32 lengths in characters.
    is_real_NK: False at branch points that only pad the row.
  """

  code_NKY: Array
  length_NK: Array
  is_real_NK: Array


def target_width(trunks: Sequence[Trunk]) -> int:
  """Returns the length of the longest target in characters.

  Give it all trunks of a run, so that nothing is compiled twice.
  """
  points = (point for trunk in trunks for point in trunk.points)
  return max((len(_target(point)) for point in points), default=1) or 1


def encode_targets(batch: TrunkBatch, width: int) -> Targets:
  """Returns the targets of a batch as numpy arrays.

  Raises:
    ValueError: a target has more than `width` characters.
  """
  is_real_NK = np.asarray(batch.trunks.is_real_NK)
  code_NKY = np.zeros((*is_real_NK.shape, width), np.int32)
  length_NK = np.zeros(is_real_NK.shape, np.int32)
  for n, trunk in enumerate(batch.sources):
    for k, point in enumerate(trunk.points):
      target = _target(point)
      if len(target) > width:
        raise ValueError(
          f"trajectory {trunk.trajectory.id!r} has a target of {len(target)} "
          f"characters, more than width={width}; use target_width of all "
          "trunks of the run"
        )
      length_NK[n, k] = len(target)
      codes = np.frombuffer(target.encode("utf-32-le"), np.int32)
      code_NKY[n, k, : len(target)] = codes
  return Targets(code_NKY, length_NK, is_real_NK)


def _target(point):
  return point.target.strip(WHITESPACE)


class _Completions(NamedTuple):
  """Parts of completions, before they are compared with a target.

  Attributes:
    failure_B: index in FAILURES; 0 where the format is right.
    thought_chars_B: length of the thought, also where the format is broken.
    action_chars_B: length of the action, also where the format is broken.
    action_BX: code points of the action, cut off at the width.
    text_bytes_B: UTF-8 bytes of the whole text, with those that were cut off.
  """

  failure_B: jax.Array
  thought_chars_B: jax.Array
  action_chars_B: jax.Array
  action_BX: jax.Array
  text_bytes_B: jax.Array


class DeviceReward:
  """Scores branches, inside or outside of jit.

  Rows do not depend on each other but are sorted by length. Where N is split
  over devices, call this inside shard_map, so that each device sorts its own
  rows.
  """

  def __init__(
    self,
    reward: RewardConfig,
    device: DeviceRewardConfig,
    tokenizer: Tokenizer,
    platform: str = "",
  ) -> None:
    """Makes the table of the tokenizer's bytes.

    Args:
      reward: the reward.
      device: the sizes on the device.
      tokenizer: gives the bytes of each token.
      platform: platform of the program; "" for the default backend.

    Raises:
      ValueError: this reward runs on the host only.
    """
    reason = host_reason(reward, device)
    if reason:
      raise ValueError(f"{reason}; or compute rewards on the host")
    self._broken_format_reward = reward.broken_format_reward
    self._count = _COUNTS[reward.function]
    self._device = device
    self._cells = device.cells(platform)
    spellings = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    self._table = text.make_token_table(spellings)
    self._longest_token = max(map(len, spellings))

  def __call__(
    self, branches: Branches, targets: Targets
  ) -> tuple[Scores, jax.Array]:
    """Returns scores, and which branches have one.

    Args:
      branches: branches [N, R, ...], R = K * G.
      targets: targets [N, K, ...].

    Returns:
      (scores, is_scored_NKG). Scores equal those of scoring.score_branches.
      is_scored_NKG is False and scores are nan at padding points, and where a
      completion has more than max_text_bytes or its action has more characters
      than the largest of `sizes`: score these on the host, or drop their
      groups.
    """
    N, R, C = branches.tokens_NRC.shape
    K = targets.length_NK.shape[1]
    rows = lambda x: jnp.reshape(x, (N * R, *x.shape[2:]))  # noqa: E731
    points = lambda x: rows(jnp.repeat(x, R // K, axis=1))  # noqa: E731
    text_width = min(C * self._longest_token, self._device.max_text_bytes)
    read = _in_chunks(
      functools.partial(self._read, text_width=text_width),
      max(1, self._cells // text_width),
      rows(branches.tokens_NRC),
      rows(branches.is_completion_NRC),
      rows(branches.stopped_NR),
    )
    is_whole_B = read.failure_B == 0
    is_too_long_B = read.text_bytes_B > text_width
    is_too_long_B |= is_whole_B & (read.action_chars_B > self._device.sizes[-1])
    is_scored_B = points(targets.is_real_NK) & ~is_too_long_B
    similarity_B = self._similarity(
      read,
      is_whole_B & is_scored_B,
      points(targets.code_NKY),
      points(targets.length_NK),
    )
    values_B = (
      jnp.where(is_whole_B, similarity_B, self._broken_format_reward),
      similarity_B,
      read.thought_chars_B,
      read.action_chars_B,
    )
    shape = (N, K, R // K)
    is_scored_NKG = is_scored_B.reshape(shape)
    values_NKG = (x.astype(jnp.float32).reshape(shape) for x in values_B)
    scores = Scores(
      *(jnp.where(is_scored_NKG, x, jnp.nan) for x in values_NKG),
      failure_NKG=jnp.where(is_scored_B, read.failure_B, 0).reshape(shape),
    )
    return scores, is_scored_NKG

  @jax.named_scope("read_completions")
  def _read(self, tokens_BC, is_completion_BC, stopped_B, *, text_width):
    """Decodes completions and checks their format."""
    place_C = jnp.arange(tokens_BC.shape[1])
    last_B = jnp.max(jnp.where(is_completion_BC, place_C, -1), axis=1)
    # The stop token that ended a completion is not part of its text.
    is_stop_BC = stopped_B[:, None] & (place_C == last_B[:, None])
    bytes_BU, text_bytes_B = text.spell(
      self._table, tokens_BC, is_completion_BC & ~is_stop_BC, text_width
    )
    code_BU, is_character_BU = text.decode_utf8(bytes_BU, text_bytes_B)
    parts = tags.split(
      code_BU,
      is_character_BU,
      open_tag=THINK_OPEN,
      close_tag=THINK_CLOSE,
      whitespace=WHITESPACE,
    )
    width = min(text_width, self._device.sizes[-1])
    action_BX, _ = text.compact(code_BU, parts.is_outside_BU, width)
    return _Completions(
      failure_B=_failure(parts, stopped_B),
      thought_chars_B=parts.inside_chars_B,
      action_chars_B=parts.outside_chars_B,
      action_BX=action_BX,
      text_bytes_B=text_bytes_B,
    )

  @jax.named_scope("similarity")
  def _similarity(self, read, is_compared_B, target_BY, target_length_B):
    """Similarity of actions and targets; nan where is_compared_B is False."""
    action_chars_B = jnp.where(is_compared_B, read.action_chars_B, 0)
    count_B = similarity.by_length(
      self._count,
      read.action_BX,
      action_chars_B,
      target_BY,
      target_length_B,
      sizes=self._device.sizes,
      chunk_cells=self._cells,
    )
    ratio_B = similarity.ratio(count_B, action_chars_B + target_length_B)
    return jnp.where(is_compared_B, ratio_B, jnp.nan)


def _failure(parts: tags.Parts, stopped_B: jax.Array) -> jax.Array:
  """Returns the first failure of format.split, as its index in FAILURES.

  The last two are reached only with a single thought; the texts inside and
  outside of all tags are then thought and action.
  """
  is_broken = {
    "not_stopped": ~stopped_B,
    "no_thought": ~parts.starts_with_open_B,
    "thought_not_closed": parts.closes_B == 0,
    "several_thoughts": (parts.opens_B > 1) | (parts.closes_B > 1),
    "empty_thought": parts.inside_chars_B == 0,
    "empty_action": parts.outside_chars_B == 0,
  }
  failure_B = jnp.zeros_like(parts.opens_B)
  for name, is_broken_B in reversed(is_broken.items()):
    failure_B = jnp.where(is_broken_B, FAILURES.index(name), failure_B)
  return failure_B


def _in_chunks(function: Callable, rows: int, *arrays_B: jax.Array) -> Any:
  """Applies a function of rows to about `rows` rows at a time."""
  total = arrays_B[0].shape[0]
  chunks = -(-total // rows)
  rows = -(-total // chunks)

  def split(x_B):
    padding = [(0, chunks * rows - total)] + [(0, 0)] * (x_B.ndim - 1)
    return jnp.pad(x_B, padding).reshape(chunks, rows, *x_B.shape[1:])

  found = jax.lax.map(lambda xs: function(*xs), tuple(map(split, arrays_B)))
  merge = lambda x: x.reshape(chunks * rows, *x.shape[2:])[:total]  # noqa: E731
  return jax.tree.map(merge, found)
