# SPDX-License-Identifier: Apache-2.0
"""The devices' side of a stream: its state, and the programs that change it.

segments.py says what the programs compute, and stream.py what they are given.
The programs are functions of modules with the policy as an argument, so that
JAX knows them again: streams of equal policies and shapes share what is
compiled.

Axes besides those of the legend: M trunks that a program runs, D devices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from srl_jax import sharding
from srl_jax.models.key_values import KeyValues
from srl_jax.policy import Policy
from srl_jax.rollout import segments
from srl_jax.rollout.segments import Queue, Rows, Settings
from srl_jax.rollout.tapes import Tape

# Trunks that are copied at a time; the others of a copy stand for none.
_COPIES = 8


class DeviceRows:
  """Rows on the devices; all methods need `jax.set_mesh`."""

  def __init__(
    self,
    policy: Policy,
    params: Any = None,
    *,
    mesh: jax.sharding.Mesh,
    **sizes: int,
  ):
    """Makes empty rows; keys and values take most of their memory.

    Args:
      policy: the model's functions.
      params: the model's parameters; None for a later `start`.
      mesh: the devices.
      **sizes: see `segments.empty_rows`.
    """
    self._policy, self.mesh, self.sizes = policy, mesh, sizes
    self._params, self._rows = None, None
    self.jitted: dict[str, Any] = {
      "lay out": jax.jit(_for_decoding, static_argnums=0),
      "make": jax.jit(
        _empty_rows, static_argnums=0, static_argnames=tuple(sizes)
      ),
    }
    if params is not None:
      self.start(params)

  def start(self, params: Any) -> None:
    """Makes empty rows, for other parameters than before."""
    if not self._policy.is_for_decoding(params):
      params = self.jitted["lay out"](self._policy, params)
    self._params = params
    make = self.jitted["make"]
    self._rows: Rows = make(self._policy, self._params, **self.sizes)
    self._jit_for(jax.tree.map(lambda x: x.sharding, self._rows))

  def stop(self) -> None:
    """Frees the memory of the rows and of the laid out parameters."""
    self._params, self._rows = None, None

  def _jit_for(self, kept: Any) -> None:
    """Makes the programs of rows that are split in this way."""
    if "segment" in self.jitted:
      return
    everywhere = sharding.replicated(self.mesh)

    def resize(cache):
      return jax.jit(
        _resize,
        static_argnums=0,
        static_argnames="width",
        out_shardings=(_layer(cache, 0), everywhere),
      )

    # What changes trunks is not compiled again for each width of the ring.
    self.jitted |= {
      "admit": jax.jit(
        _admit,
        static_argnums=0,
        donate_argnums=2,
        out_shardings=kept.trunk,
      ),
      "extend": jax.jit(
        _extend,
        static_argnums=0,
        donate_argnums=2,
        out_shardings=kept.trunk,
      ),
      "copy": jax.jit(_copy_trunks, donate_argnums=0, out_shardings=kept.trunk),
      "resize trunk": resize(kept.trunk),
      "resize cache": resize(kept.cache),
      "segment": jax.jit(
        _segment,
        static_argnums=0,
        static_argnames="settings",
        donate_argnums=2,
        out_shardings=(kept, everywhere, everywhere),
      ),
    }

  def bound(self, name: str, **static: Any) -> Bound:
    """A program with its static arguments, to be compiled ahead of time."""
    return Bound(self.jitted[name], self._policy, static)

  def expect(self, rows: Any) -> None:
    """Makes the programs ahead of time, for abstract rows."""
    self._jit_for(jax.tree.map(lambda x: x.sharding, rows))

  @property
  def trunk_width(self) -> int:
    """Width of the trunks in tokens."""
    places = self.sizes.get("places", 1)
    return self._rows.trunk.position.shape[1] // places

  @property
  def cache_width(self) -> int:
    """Width of the ring in tokens."""
    return self._rows.cache.position.shape[-1]

  def admit(
    self,
    trunks: Sequence[tuple[int, np.ndarray]],
    room: int,
    width: int,
    places: Sequence[int] | None = None,
  ) -> None:
    """Runs trunks and puts them into rows.

    Args:
      trunks: (row, tokens) of each.
      room: number of trunks that the program runs, at least as many.
      width: its width, at least that of the longest.
      places: the place of each in its row, if rows have several. The width is
        then that of a place.
    """
    tokens_MS = np.zeros((room, width), np.int32)
    length_M = np.zeros(room, np.int32)
    row_M = np.full(room, self._none, np.int32)
    for m, (row, tokens) in enumerate(trunks):
      tokens_MS[m, : len(tokens)] = tokens
      length_M[m], row_M[m] = len(tokens), row
    place_M = None
    if places is not None:
      place_M = np.zeros(room, np.int32)
      place_M[: len(places)] = places
    trunk = self.jitted["admit"](
      self._policy,
      self._params,
      self._rows.trunk,
      tokens_MS,
      length_M,
      row_M,
      place_M,
    )
    self._rows = self._rows.replace(trunk=trunk)

  def extend(
    self,
    trunks: Sequence[Sequence[tuple[int, np.ndarray, int]]],
    room: int,
    width: int,
  ) -> None:
    """Runs what follows the heads of trunks that are there.

    Args:
      trunks: for each device (row, tokens, how many of them the row has) of
        trunks in its rows.
      room: number of trunks that the program runs for each device.
      width: number of tokens that it runs of each, at least as many as follow
        any head. With the head they fit in the trunk.
    """
    devices = len(trunks)
    n = self._none // devices
    tokens_DMT = np.zeros((devices, room, width), np.int32)
    at_DM, length_DM, row_DM = np.zeros((3, devices, room), np.int32)
    is_given_DM = np.arange(room) < np.array([[len(x)] for x in trunks])
    for d, of_device in enumerate(trunks):
      given = [row % n for row, _, _ in of_device]
      others = [row for row in range(n) if row not in given]
      row_DM[d] = (given + others)[:room]
      for m, (_, tokens, at) in enumerate(of_device):
        rest = tokens[at:]
        tokens_DMT[d, m, : len(rest)] = rest
        at_DM[d, m], length_DM[d, m] = at, len(rest)
    trunk = self.jitted["extend"](
      self._policy,
      self._params,
      self._rows.trunk,
      tokens_DMT,
      at_DM,
      length_DM,
      row_DM,
      is_given_DM,
    )
    self._rows = self._rows.replace(trunk=trunk)

  def copy(self, sources: Mapping[int, int]) -> None:
    """Gives rows the trunks of others: {row: row that has its trunk}."""
    pairs = list(sources.items())
    for first in range(0, len(pairs), _COPIES):
      to_M = np.full(_COPIES, self._none, np.int32)
      from_M = np.zeros(_COPIES, np.int32)
      for m, pair in enumerate(pairs[first : first + _COPIES]):
        to_M[m], from_M[m] = pair
      trunk = self.jitted["copy"](self._rows.trunk, from_M, to_M)
      self._rows = self._rows.replace(trunk=trunk)

  def resize(self, *, trunk_width: int = 0, cache_width: int = 0) -> None:
    """Makes trunks wider, or the ring wider or narrower; 0 leaves a width."""
    rows = self._rows
    if trunk_width:
      trunk, _ = self._resized("trunk", np.int32(0), trunk_width)
      rows = rows.replace(trunk=trunk)
    if cache_width:
      cache, column = self._resized("cache", rows.column, cache_width)
      rows = rows.replace(cache=cache, column=column)
    self._rows = rows

  def _resized(
    self, name: str, oldest: Any, width: int
  ) -> tuple[Any, jax.Array]:
    """Returns what `segments.resize` does, of trunks or of the ring.

    The old is freed layer by layer: there may be no room for all of it twice.
    """
    old, k, v = getattr(self._rows, name), (), ()
    for i in range(max(1, len(old.k))):
      layer = _layer(old, i)
      made, column = self.jitted[f"resize {name}"](
        self._policy, layer, oldest, width=width
      )
      jax.tree.map(lambda x: x.delete(), (layer.k, layer.v))
      k, v = k + made.k, v + made.v
    return made._replace(k=k, v=v), column

  def segment(
    self, queue: Queue, key: jax.Array, enough: int, settings: Settings
  ) -> tuple[Tape, jax.Array]:
    """Starts a segment; returns its tape and what still waits."""
    self._rows, tape, waiting_NQ = self.jitted["segment"](
      self._policy,
      self._params,
      self._rows,
      queue,
      key,
      np.int32(enough),
      settings=settings,
    )
    return tape, waiting_NQ

  @property
  def _none(self) -> int:
    """Stands for no row."""
    return self._rows.entry_NB.shape[0]


class Widest(NamedTuple):
  """Decoding at its widest, for a plan of its memory.

  Attributes:
    device_rows: the rows, not started.
    queue: a queue of the rows.
    settings: of a segment.
    room: most trunks that are run at a time.
    tails_DMT: shape [D, M, T] of the tails that take the most memory, where
      trunks go on: T tokens of M trunks of each device. None if none goes on.
  """

  device_rows: DeviceRows
  queue: Queue
  settings: Settings
  room: int
  tails_DMT: tuple[int, int, int] | None = None


def _stored(policy: Policy, tree: Any) -> Any:
  """Turns keys as they are computed with into keys as they are stored, or back.

  The kernel of decoding reads keys as [.., X, E], and the loop has them so. If
  they were stored in another order, every segment would copy all of them, at
  its begin and at its end.
  """
  if not policy.reads_what_is_seen:
    return tree
  is_cache = lambda x: isinstance(x, KeyValues)  # noqa: E731
  turn = lambda x: x.turned() if is_cache(x) else x  # noqa: E731
  return jax.tree.map(turn, tree, is_leaf=is_cache)


def _on_stored(function: Callable[..., Any]) -> Callable[..., Any]:
  """A function of policy and arrays, for keys as they are stored."""

  @functools.wraps(function)
  def on_stored(policy, *args, **static):
    args = _stored(policy, args)
    return _stored(policy, function(policy, *args, **static))

  return on_stored


_empty_rows = _on_stored(segments.empty_rows)
_admit = _on_stored(segments.admit)
_extend = _on_stored(segments.extend)
_segment = _on_stored(segments.segment)


@_on_stored
def _resize(policy: Policy, cache: Any, oldest: Any, *, width: int) -> Any:
  del policy
  return segments.resize(cache, oldest, width=width)


class Bound(NamedTuple):
  """A jitted function whose static arguments are set."""

  jitted: Any
  policy: Policy
  static: dict[str, Any]

  def __call__(self, *args: Any) -> Any:
    return self.jitted(self.policy, *args, **self.static)

  def lower(self, *args: Any) -> Any:
    """Lowers the function; see `jax.jit`."""
    return self.jitted.lower(self.policy, *args, **self.static)


def _for_decoding(policy: Policy, params: Any) -> Any:
  return policy.for_decoding(params)


def _copy_trunks(trunk: Any, from_M: jax.Array, to_M: jax.Array) -> Any:
  copy = lambda x: x.at[to_M].set(x[from_M], mode="drop")  # noqa: E731
  return jax.tree.map(copy, trunk)


def _layer(cache: Any, i: int) -> Any:
  """A layer of keys and values, or none if a policy has none."""
  return cache._replace(k=cache.k[i : i + 1], v=cache.v[i : i + 1])
