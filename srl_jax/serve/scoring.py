# SPDX-License-Identifier: Apache-2.0
"""Log-probs of given texts, for likelihood evaluations.

Texts with a common beginning are scored together: the beginning is run once as
a trunk, and what follows are its branches. So a question with ten answers costs
little more than the question. Every token of the trunk is scored too, which is
why the trunk runs as the only branch of an empty one. The logits of a few
positions exist at a time.

Axes: N groups, S trunk positions, R texts of a group, T positions behind the
trunk, A most likely tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srl_jax import sharding
from srl_jax.ops import logprobs
from srl_jax.policy import Policy
from srl_jax.rollout.row import common

# Texts of a group, and positions that are run at a time, at most.
_TEXTS = 16
_POSITIONS = 8192
# Logits that a device holds at a time, roughly.
_LOGITS = 2**24
# Numbers of most likely tokens that there are programs for.
_LIKELY = (1, 5, 20)
MAX_LIKELY = _LIKELY[-1]


class Scores(NamedTuple):
  """What the model says of a text of T tokens, at temperature 1.

  Attributes:
    logps: log-prob of each token but the first, in nats [T - 1].
    likely: the most likely tokens behind each token, best first [T, A].
    likely_logps: their log-probs [T, A].
  """

  logps: np.ndarray
  likely: np.ndarray
  likely_logps: np.ndarray


class _Group(NamedTuple):
  """Texts with `trunk` tokens in common, by their indices."""

  trunk: int
  texts: list[int]


class TextScorer:
  """Scores texts; compiles a program for each size of a batch."""

  def __init__(
    self,
    policy: Policy,
    params: Any,
    mesh: jax.sharding.Mesh,
    rules: sharding.ShardingRules,
  ):
    """Keeps the model."""
    self._params, self._mesh = params, mesh
    self._least = sharding.batch_devices(mesh, rules)
    self._score = jax.jit(
      functools.partial(_score, policy),
      static_argnames="likely",
      out_shardings=sharding.replicated(mesh),
    )
    self.positions = 0

  def score(
    self, texts: Sequence[Sequence[int]], likely: int = 1
  ) -> list[Scores]:
    """Scores texts of one token or more.

    Args:
      texts: token ids.
      likely: number of most likely tokens to report, up to MAX_LIKELY; at
        least one is.
    """
    count = next(n for n in _LIKELY if n >= likely)
    tokens = [np.asarray(text, np.int32) for text in texts]
    scores: dict[int, Scores] = {}
    for batch in _batches(tokens, self._least):
      trunk_NS, length_N, branch_NRT = _lay_out(tokens, batch, self._least)
      self.positions += trunk_NS.size + branch_NRT.size
      with jax.set_mesh(self._mesh):
        scored = jax.device_get(
          self._score(
            self._params, trunk_NS, length_N, branch_NRT, likely=count
          )
        )
      for n, group in enumerate(batch):
        for r, i in enumerate(group.texts):
          scores[i] = _join(scored, n, r, group.trunk, len(tokens[i]))
    return [scores[i] for i in range(len(tokens))]


def _join(scored, n: int, r: int, trunk: int, length: int) -> Scores:
  """Puts a text's trunk and branch together; the branch repeats one token."""
  in_trunk, in_branch = scored
  parts = [
    np.concatenate([x[n, 0, : trunk - 1], y[n, r, : length - trunk + 1]])
    for x, y in zip(in_trunk, in_branch, strict=True)
  ]
  return Scores(parts[0][: length - 1], *parts[1:])


def _groups(tokens: Sequence[np.ndarray]) -> list[_Group]:
  """Groups texts that have at least half of each in common."""
  order = sorted(range(len(tokens)), key=lambda i: tokens[i].tolist())
  groups: list[_Group] = []
  for i in order:
    text = tokens[i]
    if groups and len(groups[-1].texts) < _TEXTS:
      trunk, texts = groups[-1]
      same = min(trunk, common(tokens[texts[0]], text))
      longest = max(len(tokens[j]) for j in (*texts, i))
      if same * 2 >= longest:
        groups[-1] = _Group(same, [*texts, i])
        continue
    groups.append(_Group(len(text), [i]))
  return groups


def _batches(tokens: Sequence[np.ndarray], least: int) -> list[list[_Group]]:
  """Puts groups of about equal width together, as many as may run at a time."""
  by_width = sorted(_groups(tokens), key=lambda group: group.trunk)
  batches: list[list[_Group]] = []
  for group in by_width:
    if batches:
      batch = [*batches[-1], group]
      trunk_NS, _, branch_NRT = _widths(tokens, batch, least)
      if np.prod(trunk_NS) + np.prod(branch_NRT) <= _POSITIONS:
        batches[-1] = batch
        continue
    batches.append([group])
  return batches


def _widths(tokens, batch: Sequence[_Group], least: int):
  """Shapes of trunks, lengths and branches, of few different sizes."""
  n = least * _power(-(-len(batch) // least), 1)
  trunk = _power(max(group.trunk for group in batch), 64)
  texts = _power(max(len(group.texts) for group in batch), 1)
  behind = max(
    len(tokens[i]) - group.trunk + 1 for group in batch for i in group.texts
  )
  return (n, trunk), (n,), (n, texts, _power(behind, 8))


def _lay_out(tokens, batch: Sequence[_Group], least: int):
  arrays = [np.full(s, -1, np.int32) for s in _widths(tokens, batch, least)]
  trunk_NS, length_N, branch_NRT = arrays
  length_N[:] = 0
  for n, (trunk, texts) in enumerate(batch):
    trunk_NS[n, :trunk] = tokens[texts[0]][:trunk]
    length_N[n] = trunk
    for r, i in enumerate(texts):
      # The last token of the trunk is run again, for what follows it.
      part = tokens[i][trunk - 1 :]
      branch_NRT[n, r, : len(part)] = part
  return arrays


def _power(size: int, least: int) -> int:
  """The next power of two times `least`."""
  while least < size:
    least *= 2
  return least


def _score(policy, params, trunk_NS, length_N, branch_NRT, *, likely):
  """Scores the tokens of trunks and branches; -1 is padding."""
  n, width = trunk_NS.shape
  empty_N1 = jnp.full((n, 1), -1)
  nothing = policy.trunk(params, jnp.zeros((n, 1), jnp.int32), empty_N1)
  position_NS = jnp.where(trunk_NS >= 0, jnp.arange(width), -1)
  trunk_N1S = trunk_NS[:, None]
  zeros_N1 = jnp.zeros((n, 1), jnp.int32)
  hidden_N1SD, kv = policy.branch(
    params,
    jnp.maximum(trunk_N1S, 0),
    position_NS[:, None],
    zeros_N1,
    nothing,
  )
  at_N1 = jnp.maximum(length_N[:, None] - 1, 0)
  place_NRT = at_N1[..., None] + jnp.arange(branch_NRT.shape[2])
  hidden_NRTD, _ = policy.branch(
    params,
    jnp.maximum(branch_NRT, 0),
    jnp.where(branch_NRT >= 0, place_NRT, -1),
    jnp.broadcast_to(at_N1, branch_NRT.shape[:2]),
    kv._replace(position=position_NS),
  )
  head = policy.head(params)
  return (
    _read(head, hidden_N1SD, trunk_N1S, likely),
    _read(head, hidden_NRTD, branch_NRT, likely),
  )


def _read(head, hidden_NRTD, tokens_NRT, likely):
  """Log-prob of the next token at each position, and the likely ones."""
  n, r, length, width = hidden_NRTD.shape
  next_NRT = jnp.roll(tokens_NRT, -1, axis=-1)
  chunk = max(1, min(length, _LOGITS // (n * r * head.table_VD.shape[0])))
  count = -(-length // chunk)
  room = ((0, 0), (0, 0), (0, count * chunk - length))
  hidden = jnp.pad(hidden_NRTD, (*room, (0, 0)))
  tokens = jnp.pad(next_NRT, room)

  def score(xs):
    hidden_NRCD, next_NRC = xs
    logp_NRCV = jax.nn.log_softmax(logprobs.logits(head, hidden_NRCD))
    index_NRC1 = jnp.maximum(next_NRC, 0)[..., None]
    chosen_NRC1 = jnp.take_along_axis(logp_NRCV, index_NRC1, axis=-1)
    best_NRCA, token_NRCA = jax.lax.top_k(logp_NRCV, likely)
    return chosen_NRC1[..., 0], token_NRCA, best_NRCA

  scored = jax.lax.map(
    score,
    (
      jnp.moveaxis(hidden.reshape(n, r, count, chunk, width), 2, 0),
      jnp.moveaxis(tokens.reshape(n, r, count, chunk), 2, 0),
    ),
  )
  return tuple(
    jnp.moveaxis(x, 0, 2).reshape(n, r, count * chunk, *x.shape[4:])[
      :, :, :length
    ]
    for x in scored
  )
