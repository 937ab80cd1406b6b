# SPDX-License-Identifier: Apache-2.0
"""The counts against numbers by hand, for one tiny model."""

import dataclasses

import numpy as np
import pytest

from launch.tpu.counting import Counter
from launch.tpu.work import InKernel, Load, Split, Work, product, reward_work
from srl_jax.models import LoraConfig, ModelConfig
from srl_jax.sharding import ShardingRules

# D 8, Q 4, H 2, E 4, F 10, V 20, 2 layers; float32, so 4 bytes each.
MODEL = ModelConfig(
  vocab_size=20,
  d_model=8,
  n_layers=2,
  n_heads=4,
  n_kv_heads=2,
  head_width=4,
  d_mlp=10,
  remat="none",
  attention_kernel="plain",
)
# Matrices of a block: q and o 8 x 16, k and v 8 x 8, gate, up and down 8 x 10.
BLOCK = 2 * 128 + 2 * 64 + 3 * 80
TABLE = 20 * 8
# A block has 2 norms of 8 and biases of 16 + 8 + 8; the final norm has 8.
SMALL = 2 * (16 + 32) + 8
# 4 trunks of 6 tokens, 3 branches of 5 tokens, of which 4 are run.
LOAD = Load(trunks=4, trunk=6, branches=3, width=5)


def split_over(rules=ShardingRules(), data=1, fsdp=1, tensor=1):
  return Split({"data": data, "fsdp": fsdp, "tensor": tensor}, rules)


ONE = split_over()


def phases(parts):
  """The work of the parts of each phase together."""
  found = {}
  for name, work in parts.items():
    name = name.partition(",")[0]
    found[name] = found.get(name, Work()).plus(work)
  return found


def rollout(where, at_rest, load=LOAD, slots=3, cache=(4,), **options):
  counter = Counter(MODEL, where)
  return phases(
    counter.rollout(load, at_rest, slots=slots, cache=cache, **options)
  )


def accumulate_parts(where, chunks=1, is_blocked=False, kernel=None, **changes):
  model = dataclasses.replace(MODEL, **changes)
  return Counter(model, where).accumulate(
    LOAD, chunks=chunks, is_blocked=is_blocked, kernel=kernel
  )


def accumulate(*where, **options):
  parts = accumulate_parts(*where, **options)
  return Work().plus(*parts.values())


def test_a_product_reads_its_operands_and_writes_its_result():
  # [2, 3] x [3, 5] has 30 multiply-adds and 6 + 15 + 10 elements of 2 bytes.
  assert product(2, 3, 5, 2) == Work(60, 62, 0)


def test_work_adds_and_multiplies():
  assert Work(1, 2, 3).plus(Work(1, 1, 1), Work(0, 0, 5)) == Work(2, 3, 9)
  assert Work(1, 2, 3).times(2) == Work(2, 4, 6)


def trunk_flops(trunks):
  matrices = 2 * 2 * BLOCK * 6
  # Logits and values have 6 x 6 pairs in 4 heads of 4, in 2 layers.
  attention = 2 * 2 * 2 * 6 * 6 * 4 * 4
  return trunks * (matrices + attention)


def test_the_operations_of_a_rollout():
  work = rollout(ONE, ONE)
  assert work["trunks"].flops == trunk_flops(4)
  # There are 4 iterations of 12 rows; a row sees 6 trunk and 4 cached tokens.
  row = 2 * (2 * BLOCK + TABLE) + 2 * 2 * 2 * (6 + 4) * 4 * 4
  assert work["decode"].flops == 4 * 12 * row
  assert work["lay out weights"] == Work(0, 2 * 4 * (2 * BLOCK + TABLE + SMALL))


def test_a_kernel_halves_what_trunks_compute_and_keeps_their_logits():
  plain = rollout(ONE, ONE)["trunks"]
  model = dataclasses.replace(MODEL, attention_kernel="auto")
  work = phases(Counter(model, ONE).rollout(LOAD, ONE, slots=3, cache=(4,)))
  kernel = work["trunks"]
  # 4 trunks, 2 layers, 4 heads and 6 x 6 pairs; float32 logits and weights are
  # each written and read.
  pairs = 4 * 2 * 4 * 6 * 6
  assert plain.flops - kernel.flops == 2 * 2 * 4 * pairs / 2
  assert plain.memory_bytes - kernel.memory_bytes == 2 * (4 + 4) * pairs
  # Branches attend by matrix products.
  assert work["decode"] == rollout(ONE, ONE)["decode"]


def test_a_cache_that_grows_is_read_as_wide_as_it_is():
  whole = rollout(ONE, ONE)["decode"].flops
  halves = rollout(ONE, ONE, cache=(2, 4))["decode"].flops
  # In the first 2 of 4 iterations, 12 rows read 2 columns less.
  assert whole - halves == 2 * 12 * 2 * 2 * 2 * 2 * 4 * 4


def test_fewer_slots_take_more_turns_for_the_same_rows():
  whole = rollout(ONE, ONE)["decode"]
  queued = rollout(ONE, ONE, slots=1)["decode"]
  assert queued.flops == whole.flops
  # Weights and trunk keys and values are read three times as often.
  assert queued.memory_bytes > whole.memory_bytes
  # The second branch of a slot finds the cache as wide as the first left it.
  # So 2 + 2 columns are saved only once, for 4 trunks.
  grown = rollout(ONE, ONE, slots=1, cache=(2, 4))["decode"]
  assert queued.flops - grown.flops == 2 * 4 * 2 * 2 * 2 * 2 * 4 * 4


def test_earlier_branches_of_a_slot_have_mean_length():
  whole = rollout(ONE, ONE, slots=1)["decode"]
  short = rollout(ONE, ONE, slots=1, mean=1.5)["decode"]
  # 4 iterations for the last branch, and 2 x 1.5 instead of 2 x 4 before it.
  assert short.flops == pytest.approx(whole.flops * 7 / 12)


def test_the_kernel_of_decoding_reads_what_branches_have():
  plain = rollout(ONE, ONE, mean=2)["decode"]
  ragged = rollout(ONE, ONE, mean=2, read=3)["decode"]
  # In 4 iterations 12 rows read 4 entries each, or in 2 of them 3.
  entries = 4 * 12 * 4, 12 * 2 * 3
  assert plain.flops - ragged.flops == -np.diff(entries) * 2 * 2 * 2 * 4 * 4
  # Float32 logits and weights of 4 heads are each written and read.
  logits = 4 * 12 * (6 + 4) * 4 * 2 * 2 * (4 + 4)
  # Keys and values of 2 heads of 4, in 2 layers, and of 4 trunks of 6 in each
  # iteration; a head of the kernel is a register of 128 wide.
  keys = [2 * 2 * 2 * 4 * (4 * 4 * 6 + x) for x in entries]
  saved = logits + keys[0] * 4 - keys[1] * 128
  assert plain.memory_bytes - ragged.memory_bytes == saved


def test_a_turn_reads_weights_once_and_the_trunk_once_for_its_branches():
  def of_decode(**changes):
    load = LOAD._replace(**changes)
    return rollout(ONE, ONE, load)["decode"].memory_bytes / 4

  # One more token per trunk adds keys and values of 2 heads of 4, in 2 layers,
  # for each of 4 trunks, and four times the logits of 4 heads in 2 layers for
  # 12 rows.
  more = of_decode(trunk=7) - of_decode()
  assert more == 4 * (2 * 2 * 2 * 4) * 4 + 12 * 4 * 2 * 4 * 4


def test_the_operations_of_a_gradient():
  work = accumulate(ONE)
  # Besides the trunk, a branch has its own 4 tokens as keys.
  row = 2 * (2 * BLOCK + TABLE) + 2 * 2 * 2 * (6 + 4) * 4 * 4
  forward = trunk_flops(4) + 4 * 3 * 4 * row
  assert work.flops == 3 * forward
  assert work.link_bytes == 0


def test_a_kernel_computes_its_pairs_and_makes_logits_again():
  # 80 tokens and 900 pairs, with padding, instead of 72 tokens.
  kernel = InKernel(tokens=80, pairs=900, fetched=240)
  plain = accumulate_parts(ONE)
  parts = accumulate_parts(ONE, kernel=kernel)
  # Two products forward and five backward, in 2 layers with 4 heads of 4.
  assert parts["attention"].flops == 7 * 2 * 900 * 2 * 4 * 4
  assert parts["logits"] == plain["logits"]
  assert parts["layers"].flops == 3 * 2 * 2 * BLOCK * 80
  # Queries are read and results written, and keys and values of 2 heads read.
  forward = 4 * 4 * 2 * (2 * 80 * 4 + 2 * 240 * 2)
  assert parts["attention"].memory_bytes == 3.5 * forward
  again = accumulate_parts(ONE, kernel=kernel, remat="full")["attention"]
  assert again.flops == 9 * 2 * 900 * 2 * 4 * 4


def test_adapters_cost_products_of_their_own_and_save_gradients_of_matrices():
  lora = LoraConfig(rank=3, targets=("q", "down"))
  full, adapted = accumulate(ONE), accumulate(ONE, lora=lora)
  rows, trunk = 4 * 3 * 4, 4 * 6
  # In each of 2 layers, q is 8 x 16 and down is 10 x 8.
  elements = 2 * 3 * ((8 + 16) + (10 + 8))
  saved = 2 * (trunk + rows) * 2 * BLOCK + 2 * rows * TABLE
  spent = 3 * 2 * (trunk + rows) * elements
  assert full.flops - adapted.flops == saved - spent
  model = dataclasses.replace(MODEL, lora=lora)
  counter = Counter(model, ONE)
  # Only adapters have two float32 moments.
  finish = counter.finish(8, 4)
  assert finish.memory_bytes == elements * (2 * 4 + 2 * (8 + 4))
  work = phases(counter.rollout(LOAD, ONE, slots=3, cache=(4,)))
  assert work["lay out weights"].flops == 2 * 3 * 2 * (8 * 16 + 10 * 8)
  # Merged adapters cost nothing.
  assert work["decode"] == rollout(ONE, ONE)["decode"]
  # In bfloat16 they are not merged, and each iteration computes them.
  half = dataclasses.replace(model, dtype="bfloat16")
  work = phases(Counter(half, ONE).rollout(LOAD, ONE, slots=3, cache=(4,)))
  assert work["lay out weights"].flops == 0
  plain = rollout(ONE, ONE)["decode"].flops
  assert work["decode"].flops - plain == 4 * 2 * 4 * 3 * elements


def test_what_is_not_kept_is_computed_twice():
  def flops(remat, is_blocked=False, **changes):
    return accumulate(ONE, is_blocked=is_blocked, remat=remat, **changes).flops

  tokens = 4 * 6 + 4 * 3 * 4
  head = 2 * TABLE * 4 * 3 * 4
  attention = 2 * 2 * 2 * 4 * 4 * (4 * 6 * 6 + 4 * 3 * 4 * (6 + 4))
  assert flops("none", True) - flops("none") == head
  assert flops("dots") - flops("none") == attention
  # Nothing but a norm after it needs the result of `down`, which is 10 x 8.
  again = 2 * 2 * (BLOCK - 80) * tokens
  assert flops("full") - flops("dots") == again
  sandwich = [flops(x, sandwich_norms=True) for x in ("dots", "full")]
  assert sandwich[1] - sandwich[0] == 2 * 2 * BLOCK * tokens
  two = split_over(tensor=2)
  links = [accumulate(two, remat=x).link_bytes for x in ("dots", "full")]
  # One of the two partial sums [tokens, 8] of a layer: 4 bytes an element.
  assert links[1] - links[0] == 2 * 2 * (1 / 2) * tokens * 8 * 4


def test_every_chunk_of_positions_scatters_the_gradient_of_the_head():
  one, three = (accumulate(split_over(fsdp=4), n).link_bytes for n in (1, 3))
  assert three - one == 2 * 0.75 * TABLE * 4


def test_the_batch_divides_everything_but_the_weights():
  one = accumulate(ONE)
  four = accumulate(split_over(data=4))
  assert four.flops == one.flops / 4
  assert four.memory_bytes > one.memory_bytes / 4
  # Gradients are summed whole: 2 * 3/4 of all parameters are received.
  everything = 2 * BLOCK + TABLE + SMALL
  assert four.link_bytes == 4 * 2 * 0.75 * everything


def test_weights_split_over_the_batch_are_gathered_and_scattered():
  work = accumulate(split_over(fsdp=4))
  matrices = 2 * BLOCK + TABLE
  # Weights are gathered forward and backward (the head once for both), and
  # gradients scattered. Norms and biases are not split and so are summed whole.
  moved = 3 * 0.75 * matrices - 0.75 * TABLE + 2 * 0.75 * SMALL
  # Each of 18 tokens gets 3/4 of its row from other devices; so do gradients.
  moved += 2 * 0.75 * 18 * 8
  assert work.link_bytes == pytest.approx(4 * moved)


def test_decoding_with_weights_split_over_the_batch_gathers_every_turn():
  split = split_over(fsdp=4)
  whole = split_over(ShardingRules(embed=None), fsdp=4)
  matrices = 2 * BLOCK + TABLE
  ruinous = rollout(split, split)
  # Each iteration gathers the weights, and 3/4 of the rows of 3 tokens.
  assert ruinous["decode"].link_bytes == 4 * 4 * 0.75 * (matrices + 3 * 8)
  once = rollout(whole, split)
  assert once["decode"].link_bytes == 0
  assert once["lay out weights"].link_bytes == 4 * 0.75 * matrices


def test_tensor_parallelism_sums_activations():
  work = rollout(split_over(tensor=2), ONE)
  # [12, 8] is summed after the embedding and twice in each of 2 layers; an
  # all-reduce of 2 devices receives all of it. A device also receives the other
  # half of the logits.
  moved = (12 * 8) * (1 + 2 * 2) + 12 * 10
  assert work["decode"].link_bytes == 4 * 4 * moved
  alone = rollout(ONE, ONE)
  assert work["decode"].flops == alone["decode"].flops / 2


def test_logits_that_stay_on_the_chip_take_no_memory_traffic():
  plain = Counter(MODEL, ONE).iteration(LOAD, 3, 4)
  # 12 rows see 6 + 4 keys with 4 heads, and predict 20 tokens, in float32.
  attention, draw = 4 * 12 * 10 * 4, 4 * 12 * 20
  held = Counter(MODEL, ONE, attention).iteration(LOAD, 3, 4)
  saved = {
    name: plain[name].memory_bytes - x.memory_bytes for name, x in held.items()
  }
  # In each of 2 layers, float32 logits and weights are written and read.
  assert saved["attention"] == 2 * 2 * (4 + 4) * 12 * 10 * 4
  assert saved["logits and draw"] == 6 * draw
  some = Counter(MODEL, ONE, attention - 1).iteration(LOAD, 3, 4)
  assert some["attention"] == plain["attention"]
  none = Counter(MODEL, ONE, draw - 1).iteration(LOAD, 3, 4)
  assert none == plain


def test_a_draw_receives_masses_of_blocks_and_one_block():
  model = dataclasses.replace(MODEL, vocab_size=1024)
  iteration = Counter(model, split_over(tensor=4)).iteration(LOAD, 3, 4)
  # 12 rows; 512 blocks of 2 tokens.
  masses, block = 512 * 0.75, 2 * 2 * 0.75
  assert iteration["logits and draw"].link_bytes == 4 * 12 * (masses + block)


def test_a_tensor_axis_of_the_batch_is_gathered_over():
  rules = ShardingRules(batch=("data", "fsdp", "tensor"))
  both = Counter(MODEL, split_over(rules, fsdp=2, tensor=2))
  parts = both.accumulate(LOAD, chunks=1, is_blocked=False)
  work = Work().plus(*parts.values())
  alone = accumulate(ONE)
  assert work.flops == alone.flops / 4
  # As with fsdp=4, but biases are split over tensor too: half of them is
  # gathered twice, scattered, and summed over fsdp.
  biases, norms = 2 * 32, SMALL - 2 * 32
  # Gradients of matrices are split along two axes and so are summed whole; the
  # head is gathered once.
  moved = (2 + 2) * 0.75 * (2 * BLOCK + TABLE) - 0.75 * TABLE
  moved += 2 * 0.75 * norms
  moved += biases * (3 * 0.5 + 2 * 0.5 * 0.5)
  # The parts of the vocabulary are summed first: half rows of all 72 tokens.
  # Then half of each row of 18 tokens comes from other devices.
  moved += 2 * (0.5 * 18 * 8 + 72 * 4)
  assert work.link_bytes == pytest.approx(4 * moved)


def test_the_devices_of_a_row_gather_its_keys_and_scatter_their_gradients():
  kernel = InKernel(tokens=80, pairs=900, fetched=240)
  of_rows, of_tokens = (
    split_over(rules, fsdp=2, tensor=2)
    for rules in (
      ShardingRules(batch=("data", "fsdp", "tensor")),
      ShardingRules(tokens="tensor"),
    )
  )
  assert (of_rows.row, of_tokens.row) == (1, 2)
  want, got = (accumulate_parts(x, kernel=kernel) for x in (of_rows, of_tokens))
  # All but attention is the same, and that is computed where the queries are.
  assert got["layers"] == want["layers"] and got["logits"] == want["logits"]
  assert got["attention"].flops == want["attention"].flops
  # Of 40 tokens of a row, 20 are another device's: 2 heads of 4, in 2 layers.
  sent = 20 * 2 * 2 * 4 * 2 * 4
  assert got["attention"].link_bytes == 2 * sent
  again = accumulate_parts(of_tokens, kernel=kernel, remat="full")
  assert again["attention"].link_bytes == 3 * sent


def test_the_optimizer_reads_and_writes_what_a_device_stores():
  elements = 2 * BLOCK + TABLE + SMALL
  work = Counter(MODEL, ONE).finish(moment_bytes=8, param_bytes=4)
  # The gradient is read twice; parameter and moments are read and written.
  assert work.memory_bytes == elements * (2 * 4 + 2 * 12)
  assert Counter(MODEL, split_over(tensor=2)).finish(8, 4).flops < work.flops


def test_rewards_read_their_grids():
  # 2 pairs of 16 characters: int16 cells are written, doubled 4 times (each a
  # read and a write), and read at 20 levels.
  assert reward_work(2, 16, "difflib") == Work(0, 2 * 256 * 2 * 29, 0)
  assert reward_work(2, 16, "levenshtein").memory_bytes == 2 * 32 * 16 * 12
