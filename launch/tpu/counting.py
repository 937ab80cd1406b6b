# SPDX-License-Identifier: Apache-2.0
"""What rollout and update have to compute, read and send, counted by hand.

The compiler's own estimate counts the body of a loop once; here every layer,
chunk and turn of the decoding loop counts. All numbers are per device.

  operations  of matrix products: 2 per multiply-add; every query against
              every key, visible or not
  memory      every product reads its operands and writes its result once;
              softmaxes read and write theirs once more; other elementwise
              work is taken to be fused
  links       what a device receives: weights gathered, gradients scattered,
              partial sums of tensor parallelism

Axes: those of types.py.
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

# Over a float32 array of logits: written; read for the maximum, for the sum
# and for the log-probs, which are written and read by the draw.
_PASSES_OF_A_DRAW = 6


class Work(NamedTuple):
  """Operations, bytes of memory traffic and bytes received, per device."""

  flops: float = 0.0
  memory_bytes: float = 0.0
  link_bytes: float = 0.0

  def plus(self, *others: Work) -> Work:
    """The sum."""
    return Work(*map(sum, zip(self, *others, strict=True)))

  def times(self, factor: float) -> Work:
    """As much as so many of it."""
    return Work(*(factor * x for x in self))


class Load(NamedTuple):
  """Static shape of a batch; letters as in types.py.

  Attributes:
    trunks: N, over all devices.
    trunk: S.
    branches: R.
    width: C, stem and completion.
  """

  trunks: int
  trunk: int
  branches: int
  width: int


def product(rows: float, inner: float, columns: float, size: int) -> Work:
  """[rows, inner] times [inner, columns], of elements of `size` bytes."""
  elements = rows * inner + inner * columns + rows * columns
  return Work(2.0 * rows * inner * columns, elements * size)


@dataclasses.dataclass(frozen=True)
class Layout:
  """How rules split arrays over a mesh while a program computes.

  Weights that are split over an axis of the batch, or along `embed`, have to
  be gathered to be used; those split otherwise stay, and sums that they yield
  parts of are added up between devices.
  """

  mesh: Mapping[str, int]
  rules: ShardingRules

  def size(self, axes: Iterable[str]) -> int:
    """Devices along these mesh axes."""
    return math.prod(self.mesh[axis] for axis in axes)

  @property
  def batch(self) -> int:
    """Parts of the batch."""
    return self.size(self.rules.mesh_axes("batch"))

  def parts(self, name: str) -> int:
    """In how many parts a dimension is split while it is computed with."""
    return self.size(self.rules.axes_in_use(name))

  def stored(self, box: nn.LogicallyPartitioned) -> float:
    """Elements of a parameter that a device stores."""
    names = [name for name in box.names if name]
    split = math.prod(self.size(self.rules.mesh_axes(name)) for name in names)
    return box.value.size / split

  def used(self, box: nn.LogicallyPartitioned) -> float:
    """Elements of it that a device computes with."""
    names = [name for name in box.names if name]
    return box.value.size / math.prod(map(self.parts, names))

  def gathered_axes(self, box: nn.LogicallyPartitioned) -> int:
    """Along how many of its axes it has to be gathered."""
    sizes = (
      (self.size(self.rules.mesh_axes(name)), self.parts(name))
      for name in box.names
      if name
    )
    return sum(stored > used for stored, used in sizes)

  def copies(self, box: nn.LogicallyPartitioned) -> int:
    """How many parts of the batch store the same elements."""
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
    # Of an embedding that is no head, only rows are looked up.
    self._table = named["embedding" if config.tie_embeddings else "head"]
    tables = ("embedding", "head")
    self._blocks = [x for name, x in named.items() if name not in tables]

  def rollout(
    self, load: Load, at_rest: Layout, *, slots: int, cache: Sequence[int]
  ) -> dict[str, Work]:
    """The phases of a rollout whose completions all run to their limit.

    Args:
      load: the batch.
      at_rest: where the weights come from.
      slots: branches of a trunk that are decoded at a time.
      cache: widths of the branch cache, one after the other.
    """
    # Each width is used until it is full, then the last one.
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
    # The cache is read whole. The draw needs all logits.
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
    """Loss and gradient of one micro-batch, added to the sums.

    Args:
      load: the micro-batch.
      chunks: in how many chunks of positions logits are made; each scatters
        the gradient of the head.
      is_blocked: logits are made block by block of the vocabulary, and anew
        in the backward pass.
    """
    trunks = load.trunks / self._layout.batch
    rows = trunks * load.branches * (load.width - 1)
    trunk = trunks * load.trunk
    streams = self._stream(trunk).plus(self._stream(rows))
    attention = self._trunk_attention(trunk, load.trunk).plus(
      self._attention(rows, load.trunk, trunk),
      self._attention(rows, load.width - 1, rows),
    )
    # A product has two in the backward pass, and what is not kept is done
    # twice. Products without batch are what "dots" keeps. A matrix that is
    # not trained needs no gradient.
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
    """The optimizer step: AdamW on what each device stores.

    Args:
      moment_bytes: of both moments of an element.
      param_bytes: of an element.
    """
    trained = self._adapters or self._boxes
    stored = sum(map(self._layout.stored, trained))
    # Gradients are read for their norm and for the step.
    per_element = 2 * 4 + 2 * (moment_bytes + param_bytes)
    return Work(15 * stored, stored * per_element)

  @property
  def _vocab(self) -> float:
    return self._config.vocab_size / self._layout.parts("vocab")

  def _stream(self, tokens: float) -> Work:
    """All blocks on so many tokens, but for attention."""
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
    """All adapters on so many tokens."""
    elements = sum(map(self._layout.used, self._adapters))
    # What goes in and comes out is with the matrices already.
    return Work(2.0 * tokens * elements, elements * self._size)

  def _lookup(self, tokens: float, size: int) -> Work:
    """Rows of the table, of elements of `size` bytes; see sharding.lookup."""
    rules = self._layout.rules
    vocab, embed = rules.mesh_axes("vocab"), rules.mesh_axes("embed")
    of_rows, of_columns = self._layout.size(vocab), self._layout.size(embed)
    shared = {*vocab, *embed} & set(rules.mesh_axes("batch"))
    found = tokens * self._layout.size(shared) * self._config.d_model * size
    found /= of_columns
    # Every part of the rows yields zeros for what it does not have.
    summed = 2 * (of_rows - 1) / of_rows * found
    moved = (of_columns - 1) / of_columns * tokens * self._config.d_model * size
    return Work(0, 2 * found, summed + moved)

  def _attention(self, queries: float, keys: float, stored: float) -> Work:
    """Each of the queries against so many keys, of `stored` in all."""
    c = self._config
    logits = queries * keys * c.n_heads / self._layout.parts("kv_heads")
    # Logits are written and read in float32, weights in the compute dtype.
    traffic = logits * 2 * (4 + self._size) * c.n_layers
    return self._in_kernel(queries, keys, stored).plus(Work(0, traffic))

  def _trunk_attention(self, tokens: float, length: int) -> Work:
    """Of trunks of one length to themselves, in a kernel if there is one."""
    if self._config.attention_kernel == "plain":
      return self._attention(tokens, length, tokens)
    # It skips what lies above the diagonal.
    return self._in_kernel(tokens, length / 2, tokens)

  def _in_kernel(self, queries: float, keys: float, stored: float) -> Work:
    """The same with logits and weights that never leave the chip."""
    c = self._config
    parts = self._layout.parts("kv_heads")
    heads, kv_heads = c.n_heads / parts, c.n_kv_heads / parts
    traffic = (
      self._size * c.head_width * (2 * queries * heads + 2 * stored * kv_heads)
    )
    work = Work(2 * 2 * queries * keys * heads * c.head_width, traffic)
    return work.times(c.n_layers)

  def _head(self, tokens: float) -> Work:
    """Logits of so many tokens, in float32."""
    c = self._config
    work = product(tokens, c.d_model, self._vocab, self._size)
    rest = (4 - self._size) * tokens * self._vocab
    return work.plus(Work(0, rest))

  def _sum(self, tokens: float, name: str) -> Work:
    """Partial sums [tokens, D] added up between the parts of a dimension."""
    parts = self._layout.parts(name)
    received = 2 * (parts - 1) / parts * tokens * self._config.d_model
    return Work(0, 0, received * self._size)

  def _gather(self, weights: Sequence[nn.LogicallyPartitioned]) -> Work:
    """Weights from where they are stored to where they are used."""
    used, stored = self._layout.used, self._layout.stored
    boxes = [box for box in weights if used(box) > stored(box)]
    gathered, held = sum(map(used, boxes)), sum(map(stored, boxes))
    return Work(0, gathered * self._size, (gathered - held) * self._size)

  def _scatter(self, weights: Sequence[nn.LogicallyPartitioned]) -> Work:
    """Gradients back to where they are stored, and added to the sums."""
    link, memory = 0.0, 0.0
    for box in weights:
      used, stored = self._layout.used(box), self._layout.stored(box)
      copies = self._layout.copies(box)
      # Split along two axes, a gradient is summed up whole and then cut: the
      # compiler knows how to scatter along one only.
      whole = 1 + (self._layout.gathered_axes(box) > 1)
      link += whole * (used - stored) + 2 * (copies - 1) / copies * stored
      memory += stored * (self._size + 4 + 4)
    return Work(0, memory, link * self._size)

  def _lay_out(self, at_rest: Layout) -> Work:
    """Weights from the layout of the update to that of the rollout."""
    here = sum(map(self._layout.stored, self._boxes))
    there = sum(map(at_rest.stored, self._boxes))
    received = max(here - there, 0.0) * self._size
    # Merging adapters: a product over the rank for each element.
    adapted = sum(map(at_rest.stored, self._adapted))
    merged = 2.0 * self._config.lora.rank * adapted
    return Work(merged, there * self._stored_size + here * self._size, received)


# Levels of the recursion, as two texts of some hundred characters take.
_LEVELS = 20


def reward(pairs: float, characters: int, function: str) -> Work:
  """Comparing pairs of texts of so many characters each, on one device.

  Elementwise on int16 or int32 arrays: only memory traffic is counted. Texts
  shorter than the limit take less.
  """
  if function == "levenshtein":
    # Two diagonals are read and one is written, for all 2 X of them.
    return Work(0, pairs * 2 * characters * characters * 3 * 4)
  doublings = math.ceil(math.log2(characters))
  cells = pairs * characters**2
  return Work(0, cells * 2 * (1 + 2 * doublings + _LEVELS))
