# SPDX-License-Identifier: Apache-2.0
"""Counts what rollout and update compute, read, write and receive.

The compiler's own estimate counts the body of a loop once; here every layer,
chunk and iteration of the decoding loop counts. All numbers are per device.
Programs are counted in parts that run one after the other: the products of the
layers, attention, and logits.

  operations  of matrix products: 2 per multiply-add; every query against
              every key, visible or not, unless a kernel skips blocks of them
  memory      every product reads its operands and writes its result once;
              softmaxes read and write theirs once more, unless the chip holds
              them; other elementwise work is taken to be fused
  links       what a device receives: gathered weights, scattered gradients,
              partial sums of tensor parallelism

Axes as in types.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from srl_jax.models import LanguageModel, ModelConfig, lora
from srl_jax.ops import sampling, tree_kernels

from .work import InKernel, Load, Split, Work, product

# Passes over a float32 array of logits: one writes it; three read it for the
# maximum, the sum and the log-probs; two write and draw from the log-probs.
_PASSES_OF_A_DRAW = 6


class Counter:
  """Counts the work of a model under one split.

  `on_chip` is how many bytes of float32 logits stay on the chip between the
  operations of an iteration.
  """

  def __init__(self, config: ModelConfig, split: Split, on_chip: float = 0):
    self._config, self._split = config, split
    self._on_chip = on_chip
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
    self,
    load: Load,
    at_rest: Split,
    *,
    slots: int,
    cache: Sequence[int],
    mean: float = 0,
    read: float = 0,
  ) -> dict[str, Work]:
    """Returns the work of each part of a rollout.

    The loop lasts as long as its longest completion, which is cut off. Where a
    slot takes several branches one after the other, the earlier ones have mean
    length.

    Args:
      load: shape of the batch.
      at_rest: split in which the weights are stored.
      slots: number of branches of a trunk that are decoded at a time.
      cache: widths of the branch cache in the order of their use, in tokens.
      mean: mean length of a branch in tokens; 0 for the last of `cache`.
      read: entries of its cache that a token reads by the kernel of decoding,
        on average; 0 if every iteration reads the whole cache.
    """
    # Each width is used until it is full, and the last one from then on.
    steps = [b - a for a, b in zip([0, *cache], cache, strict=False)]
    held = sum(n * width for n, width in zip(steps, cache, strict=True))
    takes = math.ceil(load.branches / slots)
    before = (takes - 1) * (mean or cache[-1])
    iterations = cache[-1] + before
    width = (held + before * cache[-1]) / iterations
    if read:
      width = read * takes * (mean or cache[-1]) / iterations
    trunks = load.trunks / self._split.batch
    tokens = trunks * load.trunk
    loop = self.iteration(load, slots, width, is_ragged=read > 0)
    return {
      "lay out weights": self._lay_out(at_rest),
      "trunks, layers": self._layers(tokens),
      "trunks, attention": self._trunk_attention(tokens, load.trunk),
      **{f"decode, {k}": work.times(iterations) for k, work in loop.items()},
    }

  def iteration(
    self, load: Load, slots: int, width: float, *, is_ragged: bool = False
  ) -> dict[str, Work]:
    """Returns the work of one iteration of the decoding loop, in parts.

    Args:
      load: shape of the batch.
      slots: number of branches of a trunk that are decoded at a time.
      width: entries of its cache that a slot reads.
      is_ragged: whether the kernel of decoding attends, whose logits never
        reach memory.
    """
    trunks = load.trunks / self._split.batch
    rows = trunks * slots
    heads = self._config.n_heads / self._split.parts("kv_heads")
    is_held = 4 * rows * (load.trunk + width) * heads <= self._on_chip
    attend = self._in_kernel if is_ragged or is_held else self._attention
    # The kernel reads heads in whole registers.
    head = self._config.head_width
    wide = -(-head // tree_kernels.LANES) * tree_kernels.LANES / head
    wide = wide if is_ragged else 1.0
    # The draw needs all logits.
    return {
      "layers": self._layers(rows),
      "attention": attend(rows, load.trunk, wide * trunks * load.trunk).plus(
        attend(rows, width, wide * rows * width)
      ),
      "logits and draw": self._head(rows).plus(
        Work(0, self._passes(rows) * 4 * rows * self._vocab),
        Work(0, 0, 4 * rows * self._drawn_from_others()),
        self._gather([self._table]),
      ),
    }

  def _passes(self, rows: float) -> int:
    """Passes over the logits of a draw, besides the one that writes them."""
    is_held = 4 * rows * self._vocab <= self._on_chip
    return -1 if is_held else _PASSES_OF_A_DRAW - 1

  def accumulate(
    self,
    load: Load,
    *,
    chunks: int,
    is_blocked: bool,
    kernel: InKernel | None = None,
  ) -> dict[str, Work]:
    """Returns the work of one micro-batch's loss and gradient, in parts.

    Args:
      load: shape of the micro-batch; a branch takes `width - 1` positions.
      chunks: number of chunks of positions in which logits are made; each
        chunk scatters the gradient of the head.
      is_blocked: True if logits are made in blocks of the vocabulary, and
        again in the backward pass.
      kernel: what the kernels for trees compute; None if branches attend by
        matrix products.
    """
    trunks = load.trunks / self._split.batch
    rows = trunks * load.branches * (load.width - 1)
    trunk = trunks * load.trunk
    # A product has two in the backward pass, and one more in the forward pass
    # if its result is needed and not kept. "dots" keeps products without a
    # batch axis. A matrix that is not trained needs no gradient.
    remat = self._config.remat
    twice = remat == "full"
    is_full = not self._adapters
    tokens = trunk + rows
    if kernel is not None:
      tokens = kernel.tokens / self._split.batch
    streams = self._stream(tokens)
    again = self._stream(tokens, is_again=True).times(twice)
    layers = streams.times(2 + is_full).plus(again)
    # Of the two products only that for the input has partial sums.
    links = 2 * streams.link_bytes + again.link_bytes
    layers = layers._replace(link_bytes=links)
    layers = layers.plus(
      self._lookup(tokens, self._stored_size).times(1 + is_full),
      self._gather(self._blocks).times(2 + twice),
    )
    logits = (
      self._head(rows)
      .times(2 + is_full + is_blocked)
      .plus(self._sum(rows, "vocab"), self._gather([self._table]))
    )
    if is_full:
      layers = layers.plus(self._scatter(self._blocks))
      logits = logits.plus(self._scatter([self._table]).times(chunks))
    else:
      layers = layers.plus(
        self._adapt(tokens).times(3 + twice), self._scatter(self._adapters)
      )
    return {
      "layers": layers,
      "attention": self._gradient_attention(load, kernel),
      "logits": logits,
    }

  def _gradient_attention(self, load: Load, kernel: InKernel | None) -> Work:
    """Work of attention in a loss and its gradient."""
    remat = self._config.remat
    if kernel is not None:
      parts = self._split.batch
      forward = self._in_kernel(
        kernel.tokens / parts,
        kernel.pairs / kernel.tokens,
        kernel.fetched / parts,
      )
      # The backward kernel makes the logits again, besides four products.
      sent = self._keys_of_others(kernel.tokens / parts)
      return forward.times(1 + 2.5 + (remat == "full")).plus(
        sent.times(2 + (remat == "full"))
      )
    trunks = load.trunks / self._split.batch
    rows = trunks * load.branches * (load.width - 1)
    trunk = trunks * load.trunk
    attention = self._trunk_attention(trunk, load.trunk).plus(
      self._attention(rows, load.trunk, trunk),
      self._attention(rows, load.width - 1, rows),
    )
    return attention.times(3 + (remat != "none"))

  def _keys_of_others(self, tokens: float) -> Work:
    """Work of gathering the keys and values of a row, or their gradients.

    `tokens` are a device's own of the row.
    """
    c = self._config
    others = tokens * (self._split.row - 1)
    received = others * 2 * c.n_kv_heads * c.head_width * self._size
    return Work(0, 2 * received, received).times(c.n_layers)

  def finish(self, moment_bytes: int, param_bytes: int) -> Work:
    """Returns the work of AdamW on the elements that a device stores.

    Args:
      moment_bytes: bytes of both moments of an element.
      param_bytes: bytes of a parameter element.
    """
    trained = self._adapters or self._boxes
    stored = sum(map(self._split.stored, trained))
    # Gradients are read twice: for their norm and for the update.
    per_element = 2 * 4 + 2 * (moment_bytes + param_bytes)
    return Work(15 * stored, stored * per_element)

  def between_slices(self, slices: int) -> float:
    """Returns bytes that a device receives from other slices a micro-batch.

    The data axis goes over the slices, so each holds whole gradients.
    """
    stored = sum(map(self._split.stored, self._adapters or self._boxes))
    return 2 * (slices - 1) / slices * stored * self._size

  def _drawn_from_others(self) -> float:
    """Numbers per row that a device receives to draw (`sampling.draw`)."""
    vocab, parts = self._config.vocab_size, self._split.parts("vocab")
    blocks = sampling.blocks_of(vocab)
    if blocks % parts:
      return vocab - self._vocab
    # The masses of the others' blocks; then the drawn block, which one device
    # has, as a sum.
    return (blocks + 2 * vocab / blocks) * (parts - 1) / parts

  @property
  def _vocab(self) -> float:
    return self._config.vocab_size / self._split.parts("vocab")

  def _stream(self, tokens: float, is_again: bool = False) -> Work:
    """Work of all blocks on `tokens` tokens, without attention.

    Computed again for gradients, the last product of a block is left out: only
    a norm after it needs its result.
    """
    c = self._config
    heads = (c.n_heads * c.head_width) / self._split.parts("kv_heads")
    kv = 2 * c.n_kv_heads * c.head_width / self._split.parts("kv_heads")
    hidden = c.d_mlp / self._split.parts("mlp")
    block = product(tokens, c.d_model, heads + kv, self._size).plus(
      product(tokens, heads, c.d_model, self._size),
      product(tokens, c.d_model, hidden, self._size).times(2),
      self._sum(tokens, "kv_heads"),
    )
    if not is_again or c.sandwich_norms:
      down = product(tokens, hidden, c.d_model, self._size)
      block = block.plus(down, self._sum(tokens, "mlp"))
    return block.times(c.n_layers)

  def _adapt(self, tokens: float) -> Work:
    """Work of all adapters on `tokens` tokens."""
    elements = sum(map(self._split.used, self._adapters))
    # The traffic of inputs and outputs is counted with the full matrices.
    return Work(2.0 * tokens * elements, elements * self._size)

  def _layers(self, tokens: float) -> Work:
    """Work of the sampler's layers on `tokens` tokens, without attention."""
    adapters = Work() if self._config.merges_adapters else self._adapt(tokens)
    return self._stream(tokens).plus(
      self._lookup(tokens, self._size), self._gather(self._blocks), adapters
    )

  def _lookup(self, tokens: float, size: int) -> Work:
    """Work of `sharding.lookup` in a table of `size` bytes an element."""
    rules = self._split.rules
    vocab, embed = rules.mesh_axes("vocab"), rules.mesh_axes("embed")
    of_rows, of_columns = self._split.size(vocab), self._split.size(embed)
    shared = {*vocab, *embed} & set(rules.token_axes())
    found = tokens * self._split.size(shared) * self._config.d_model * size
    found /= of_columns
    # Every part of the table yields zeros for rows that it does not have.
    summed = 2 * (of_rows - 1) / of_rows * found
    moved = (of_columns - 1) / of_columns * tokens * self._config.d_model * size
    return Work(0, 2 * found, summed + moved)

  def _attention(self, queries: float, keys: float, stored: float) -> Work:
    """Work of `queries` queries against `keys` keys each, `stored` in all."""
    c = self._config
    logits = queries * keys * c.n_heads / self._split.parts("kv_heads")
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
    parts = self._split.parts("kv_heads")
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
    parts = self._split.parts(name)
    received = 2 * (parts - 1) / parts * tokens * self._config.d_model
    return Work(0, 0, received * self._size)

  def _gather(self, weights: Sequence[nn.LogicallyPartitioned]) -> Work:
    """Work of gathering weights for their use."""
    used, stored = self._split.used, self._split.stored
    boxes = [box for box in weights if used(box) > stored(box)]
    gathered, held = sum(map(used, boxes)), sum(map(stored, boxes))
    return Work(0, gathered * self._size, (gathered - held) * self._size)

  def _scatter(self, weights: Sequence[nn.LogicallyPartitioned]) -> Work:
    """Work of scattering gradients and adding them to the sums."""
    link, memory = 0.0, 0.0
    for box in weights:
      used, stored = self._split.used(box), self._split.stored(box)
      copies = self._split.copies(box)
      # The compiler can scatter along one axis only. A gradient that is split
      # along two is summed up whole and then cut.
      whole = 1 + (self._split.gathered_axes(box) > 1)
      link += whole * (used - stored) + 2 * (copies - 1) / copies * stored
      memory += stored * (self._size + 4 + 4)
    return Work(0, memory, link * self._size)

  def _lay_out(self, at_rest: Split) -> Work:
    """Work of moving weights from the update's to the rollout's split."""
    here = sum(map(self._split.stored, self._boxes))
    there = sum(map(at_rest.stored, self._boxes))
    received = max(here - there, 0.0) * self._size
    merged = 0.0
    if self._config.merges_adapters:
      # It takes a product over the rank for each element.
      adapted = sum(map(at_rest.stored, self._adapted))
      merged = 2.0 * self._config.lora.rank * adapted
    return Work(merged, there * self._stored_size + here * self._size, received)
