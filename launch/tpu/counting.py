# SPDX-License-Identifier: Apache-2.0
"""Counts what rollout and update compute, read, write and receive.

The compiler's own estimate counts the body of a loop once; here every layer,
chunk and turn of the decoding loop counts. All numbers are per device.

  operations  of matrix products: 2 per multiply-add; every query against
              every key, visible or not
  memory      every product reads its operands and writes its result once;
              softmaxes read and write theirs once more; other elementwise
              work is taken to be fused
  links       what a device receives: gathered weights, scattered gradients,
              partial sums of tensor parallelism

Axes as in types.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from srl_jax.models import LanguageModel, ModelConfig, lora
from srl_jax.sharding import ShardingRules

# Passes over a float32 array of logits: one writes it; three read it for the
# maximum, the sum and the log-probs; two write and draw from the log-probs.
_PASSES_OF_A_DRAW = 6


class Work(NamedTuple):
  """Operations, bytes of memory traffic and bytes received, per device."""

  flops: float = 0.0
  memory_bytes: float = 0.0
  link_bytes: float = 0.0

  def plus(self, *others: Work) -> Work:
    """Returns the sum of this and other work."""
    return Work(*map(sum, zip(self, *others, strict=True)))

  def times(self, factor: float) -> Work:
    """Returns this work repeated `factor` times."""
    return Work(*(factor * x for x in self))


class Load(NamedTuple):
  """Static shape of a batch; letters as in types.py.

  Attributes:
    trunks: number N of trunks on all devices together.
    trunk: length S of a trunk in tokens.
    branches: number R of branches per trunk.
    width: length C of stem and completion in tokens.
  """

  trunks: int
  trunk: int
  branches: int
  width: int


def product(rows: float, inner: float, columns: float, size: int) -> Work:
  """Work of [rows, inner] times [inner, columns], `size` bytes an element."""
  elements = rows * inner + inner * columns + rows * columns
  return Work(2.0 * rows * inner * columns, elements * size)


@dataclasses.dataclass(frozen=True)
class Layout:
  """How rules split arrays over a mesh while a program computes.

  Weights that are split over an axis of the batch, or along `embed`, are
  gathered before use. Other splits stay, and the partial sums that they yield
  are added between devices.
  """

  mesh: Mapping[str, int]
  rules: ShardingRules

  def size(self, axes: Iterable[str]) -> int:
    """Number of devices along these mesh axes."""
    return math.prod(self.mesh[axis] for axis in axes)

  @property
  def batch(self) -> int:
    """Number of parts that the batch is split into."""
    return self.size(self.rules.mesh_axes("batch"))

  def parts(self, name: str) -> int:
    """Number of parts of a logical axis while a program computes with it."""
    return self.size(self.rules.axes_in_use(name))

  def stored(self, box: nn.LogicallyPartitioned) -> float:
    """Number of elements of a parameter that a device stores."""
    names = [name for name in box.names if name]
    split = math.prod(self.size(self.rules.mesh_axes(name)) for name in names)
    return box.value.size / split

  def used(self, box: nn.LogicallyPartitioned) -> float:
    """Number of elements of a parameter that a device computes with."""
    names = [name for name in box.names if name]
    return box.value.size / math.prod(map(self.parts, names))

  def gathered_axes(self, box: nn.LogicallyPartitioned) -> int:
    """Number of axes along which a parameter is gathered before use."""
    sizes = (
      (self.size(self.rules.mesh_axes(name)), self.parts(name))
      for name in box.names
      if name
    )
    return sum(stored > used for stored, used in sizes)

  def copies(self, box: nn.LogicallyPartitioned) -> int:
    """Number of parts of the batch that store the same elements."""
    axes = {
      axis for name in box.names if name for axis in self.rules.mesh_axes(name)
    }
    return self.size(set(self.rules.mesh_axes("batch")) - axes)


class Counter:
  """Counts the work of a model under one layout."""

  def __init__(self, config: ModelConfig, layout: Layout):
    self._config, self._layout = config, layout
    self._size = jnp.dtype(config.dtype).itemsize
    self._stored_size = jnp.dtype(config.param_dtype).itemsize
    model = LanguageModel(config)
    boxed = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    named = traverse_util.flatten_dict(boxed, sep="/")
    adapters = {k: x for k, x in named.items() if lora.is_adapter(k)}
    self._boxes = [x for k, x in named.items() if k not in adapters]
    self._adapters = list(adapters.values())
    self._adapted = [x for k, x in named.items() if k + lora.A in named]
    # An embedding that is not the head is only looked up, not multiplied.
    self._table = named["embedding" if config.tie_embeddings else "head"]
    tables = ("embedding", "head")
    self._blocks = [x for name, x in named.items() if name not in tables]

  def rollout(
    self, load: Load, at_rest: Layout, *, slots: int, cache: Sequence[int]
  ) -> dict[str, Work]:
    """Returns the work of each phase of a rollout with full completions.

    Args:
      load: shape of the batch.
      at_rest: layout in which the weights are stored.
      slots: number of branches of a trunk that are decoded at a time.
      cache: widths of the branch cache in the order of their use, in tokens.
    """
    # Each width is used until it is full, and the last one from then on.
    steps = [b - a for a, b in zip([0, *cache], cache, strict=False)]
    held = sum(n * width for n, width in zip(steps, cache, strict=True))
    takes = math.ceil(load.branches / slots)
    turns = takes * cache[-1]
    width = (held + (takes - 1) * cache[-1] ** 2) / turns
    trunks = load.trunks / self._layout.batch
    rows = trunks * slots
    tokens = trunks * load.trunk
    trunk = self._stream(tokens).plus(
      self._trunk_attention(tokens, load.trunk),
      self._lookup(tokens, self._size),
    )
    # A turn reads the whole cache, and the draw needs all logits.
    turn = self._stream(rows).plus(
      self._attention(rows, load.trunk, tokens),
      self._lookup(rows, self._size),
      self._attention(rows, width, rows * width),
      self._head(rows),
      Work(0, (_PASSES_OF_A_DRAW - 1) * 4 * rows * self._vocab),
      Work(0, 0, 4 * rows * (self._config.vocab_size - self._vocab)),
    )
    return {
      "lay out weights": self._lay_out(at_rest),
      "trunks": trunk.plus(self._gather(self._blocks)),
      "decode": turn.plus(self._gather([*self._blocks, self._table])).times(
        turns
      ),
    }

  def accumulate(self, load: Load, *, chunks: int, is_blocked: bool) -> Work:
    """Returns the work of one micro-batch's loss and gradient.

    Args:
      load: shape of the micro-batch.
      chunks: number of chunks of positions in which logits are made; each
        chunk scatters the gradient of the head.
      is_blocked: True if logits are made in blocks of the vocabulary, and
        again in the backward pass.
    """
    trunks = load.trunks / self._layout.batch
    rows = trunks * load.branches * (load.width - 1)
    trunk = trunks * load.trunk
    streams = self._stream(trunk).plus(self._stream(rows))
    attention = self._trunk_attention(trunk, load.trunk).plus(
      self._attention(rows, load.trunk, trunk),
      self._attention(rows, load.width - 1, rows),
    )
    # A product has two in the backward pass, and one more in the forward pass
    # if its result is not kept. "dots" keeps products without a batch axis. A
    # matrix that is not trained needs no gradient.
    remat = self._config.remat
    twice = remat == "full"
    is_full = not self._adapters
    work = streams.times(2 + is_full + twice)
    # Of the two products only that for the input has partial sums.
    work = work._replace(link_bytes=streams.link_bytes * (2 + twice))
    work = work.plus(
      attention.times(3 + (remat != "none")),
      self._head(rows).times(2 + is_full + is_blocked),
      self._sum(rows, "vocab"),
      self._lookup(trunk + rows, self._stored_size).times(1 + is_full),
      self._gather(self._blocks).times(2 + twice),
      self._gather([self._table]),
    )
    if not is_full:
      adapters = self._adapt(trunk + rows).times(3 + twice)
      return work.plus(adapters, self._scatter(self._adapters))
    return work.plus(
      self._scatter(self._blocks),
      self._scatter([self._table]).times(chunks),
    )

  def finish(self, moment_bytes: int, param_bytes: int) -> Work:
    """Returns the work of AdamW on the elements that a device stores.

    Args:
      moment_bytes: bytes of both moments of an element.
      param_bytes: bytes of a parameter element.
    """
    trained = self._adapters or self._boxes
    stored = sum(map(self._layout.stored, trained))
    # Gradients are read twice: for their norm and for the update.
    per_element = 2 * 4 + 2 * (moment_bytes + param_bytes)
    return Work(15 * stored, stored * per_element)

  def between_slices(self, slices: int) -> float:
    """Returns bytes that a device receives from other slices a micro-batch.

    The data axis goes over the slices, so each holds whole gradients.
    """
    stored = sum(map(self._layout.stored, self._adapters or self._boxes))
    return 2 * (slices - 1) / slices * stored * self._size

  @property
  def _vocab(self) -> float:
    return self._config.vocab_size / self._layout.parts("vocab")

  def _stream(self, tokens: float) -> Work:
    """Work of all blocks on `tokens` tokens, without attention."""
    c = self._config
    heads = (c.n_heads * c.head_width) / self._layout.parts("kv_heads")
    kv = 2 * c.n_kv_heads * c.head_width / self._layout.parts("kv_heads")
    hidden = c.d_mlp / self._layout.parts("mlp")
    block = product(tokens, c.d_model, heads + kv, self._size).plus(
      product(tokens, heads, c.d_model, self._size),
      product(tokens, c.d_model, hidden, self._size).times(3),
      self._sum(tokens, "kv_heads"),
      self._sum(tokens, "mlp"),
    )
    return block.times(c.n_layers)

  def _adapt(self, tokens: float) -> Work:
    """Work of all adapters on `tokens` tokens."""
    elements = sum(map(self._layout.used, self._adapters))
    # The traffic of inputs and outputs is counted with the full matrices.
    return Work(2.0 * tokens * elements, elements * self._size)

  def _lookup(self, tokens: float, size: int) -> Work:
    """Work of `sharding.lookup` in a table of `size` bytes an element."""
    rules = self._layout.rules
    vocab, embed = rules.mesh_axes("vocab"), rules.mesh_axes("embed")
    of_rows, of_columns = self._layout.size(vocab), self._layout.size(embed)
    shared = {*vocab, *embed} & set(rules.mesh_axes("batch"))
    found = tokens * self._layout.size(shared) * self._config.d_model * size
    found /= of_columns
    # Every part of the table yields zeros for rows that it does not have.
    summed = 2 * (of_rows - 1) / of_rows * found
    moved = (of_columns - 1) / of_columns * tokens * self._config.d_model * size
    return Work(0, 2 * found, summed + moved)

  def _attention(self, queries: float, keys: float, stored: float) -> Work:
    """Work of `queries` queries against `keys` keys each, `stored` in all."""
    c = self._config
    logits = queries * keys * c.n_heads / self._layout.parts("kv_heads")
    # Logits are written and read in float32, weights in the compute dtype.
    traffic = logits * 2 * (4 + self._size) * c.n_layers
    return self._in_kernel(queries, keys, stored).plus(Work(0, traffic))

  def _trunk_attention(self, tokens: float, length: int) -> Work:
    """Work of causal attention in trunks, in a kernel if there is one."""
    if self._config.attention_kernel == "plain":
      return self._attention(tokens, length, tokens)
    # A kernel skips the blocks above the diagonal.
    return self._in_kernel(tokens, length / 2, tokens)

  def _in_kernel(self, queries: float, keys: float, stored: float) -> Work:
    """Work of `_attention` whose logits and weights never leave the chip."""
    c = self._config
    parts = self._layout.parts("kv_heads")
    heads, kv_heads = c.n_heads / parts, c.n_kv_heads / parts
    traffic = (
      self._size * c.head_width * (2 * queries * heads + 2 * stored * kv_heads)
    )
    work = Work(2 * 2 * queries * keys * heads * c.head_width, traffic)
    return work.times(c.n_layers)

  def _head(self, tokens: float) -> Work:
    """Work of the float32 logits of `tokens` tokens."""
    c = self._config
    work = product(tokens, c.d_model, self._vocab, self._size)
    rest = (4 - self._size) * tokens * self._vocab
    return work.plus(Work(0, rest))

  def _sum(self, tokens: float, name: str) -> Work:
    """Work of adding partial sums [tokens, D] between the parts of an axis."""
    parts = self._layout.parts(name)
    received = 2 * (parts - 1) / parts * tokens * self._config.d_model
    return Work(0, 0, received * self._size)

  def _gather(self, weights: Sequence[nn.LogicallyPartitioned]) -> Work:
    """Work of gathering weights for their use."""
    used, stored = self._layout.used, self._layout.stored
    boxes = [box for box in weights if used(box) > stored(box)]
    gathered, held = sum(map(used, boxes)), sum(map(stored, boxes))
    return Work(0, gathered * self._size, (gathered - held) * self._size)

  def _scatter(self, weights: Sequence[nn.LogicallyPartitioned]) -> Work:
    """Work of scattering gradients and adding them to the sums."""
    link, memory = 0.0, 0.0
    for box in weights:
      used, stored = self._layout.used(box), self._layout.stored(box)
      copies = self._layout.copies(box)
      # The compiler can scatter along one axis only. A gradient that is split
      # along two is summed up whole and then cut.
      whole = 1 + (self._layout.gathered_axes(box) > 1)
      link += whole * (used - stored) + 2 * (copies - 1) / copies * stored
      memory += stored * (self._size + 4 + 4)
    return Work(0, memory, link * self._size)

  def _lay_out(self, at_rest: Layout) -> Work:
    """Work of moving weights from the update's to the rollout's layout."""
    here = sum(map(self._layout.stored, self._boxes))
    there = sum(map(at_rest.stored, self._boxes))
    received = max(here - there, 0.0) * self._size
    # Merging adapters takes a product over the rank for each element.
    adapted = sum(map(at_rest.stored, self._adapted))
    merged = 2.0 * self._config.lora.rank * adapted
    return Work(merged, there * self._stored_size + here * self._size, received)


# Levels of the recursion for two texts of a few hundred characters.
_LEVELS = 20


def reward(pairs: float, characters: int, function: str) -> Work:
  """Work of comparing pairs of texts of `characters` each, on one device.

  The programs are elementwise on int16 or int32 arrays, so only memory traffic
  is counted. Texts shorter than the limit take less.
  """
  if function == "levenshtein":
    # Each of the 2 X diagonals reads two diagonals and writes one.
    return Work(0, pairs * 2 * characters * characters * 3 * 4)
  doublings = math.ceil(math.log2(characters))
  cells = pairs * characters**2
  return Work(0, cells * 2 * (1 + 2 * doublings + _LEVELS))
