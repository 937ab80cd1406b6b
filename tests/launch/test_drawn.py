# SPDX-License-Identifier: Apache-2.0
"""Drawn update batches, what kernels compute in them, and the least work."""

import dataclasses

import numpy as np
import pytest

from launch.tpu import drawn
from launch.tpu.drawn import Lengths, Shape
from launch.tpu.ideal import Ideal
from launch.tpu.work import Split
from srl_jax.models import LoraConfig, ModelConfig
from srl_jax.ops import decode_plan, trees
from srl_jax.sharding import ShardingRules
from srl_jax.update.packing import PackShape

# A branch takes 2 + 10 - 1 = 11 cells at most.
SHAPE = Shape(
  groups=6,
  points=2,
  samples=3,
  trunk=20,
  stem=2,
  limit=10,
  pack=PackShape(2, 1, 6),
)
FULL = Lengths(1.0, 10)
MODEL = ModelConfig(
  vocab_size=20, d_model=8, n_layers=2, n_heads=4, n_kv_heads=2, head_width=4
)
ONE = Split({"data": 1, "fsdp": 1, "tensor": 1}, ShardingRules())


@pytest.mark.parametrize(
  ("trunks", "kept", "rounds"), [(3, 1, 1), (3, 0.5, 2), (2, 0.5, 3), (1, 1, 3)]
)
def test_a_step_takes_rounds_until_enough_groups_are_kept(trunks, kept, rounds):
  assert drawn.rounds(SHAPE, trunks, Lengths(kept, 10)) == rounds


def test_full_completions_fill_a_lane_each():
  batch = drawn.draw(SHAPE, FULL)
  assert (batch.cells_M == 11).all() and len(batch.cells_M) == 18
  # A trunk's 6 branches fill a row, and a micro-batch has two.
  assert (len(batch.length_N), batch.micro_batches) == (3, 2)
  assert sorted({*batch.at_M}) == [10, 20]


def test_a_token_reads_whole_blocks_of_its_branch(monkeypatch):
  batch = drawn.draw(SHAPE, FULL)
  assert drawn.entries_read(batch) == 256
  monkeypatch.setattr(decode_plan, "OWN", 4)
  # Of 11 tokens, 4 read a block, 4 read two and 3 read three.
  assert drawn.entries_read(batch) == 4 * (4 + 4 * 2 + 3 * 3) / 11


def test_kept_groups_and_lengths_are_as_asked():
  shape = SHAPE._replace(groups=400, limit=1000, pack=PackShape(2, 1, 2))
  batch = drawn.draw(shape, Lengths(0.4, 410))
  assert len(batch.cells_M) == 400 * 3
  assert batch.cells_M.mean() == pytest.approx(411, abs=2)
  assert batch.cells_M.max() <= 1001
  # Of the trunks with a kept group, 0.4 of 1.6 have two.
  assert len(batch.length_N) == pytest.approx(400 / 1.25, rel=0.1)
  # Short branches share lanes.
  full = drawn.draw(shape, Lengths(0.4, 1000))
  assert batch.micro_batches < full.micro_batches


def test_pairs_that_are_seen_are_those_of_the_labels():
  batch = drawn.draw(SHAPE, Lengths(0.7, 6))
  rows = np.arange(batch.spots.rows)
  enter, leave, position = drawn._labels(batch, rows)
  labels = np.stack([enter, leave, position, np.zeros_like(enter)])
  seen = trees.is_visible(labels[..., :, None], labels[..., None, :])
  # Padding sees nothing, and no trunk is in two rows.
  assert seen.sum() == batch.visible_pairs


def test_kernels_compute_whole_blocks():
  found = drawn.in_kernel(drawn.draw(SHAPE, FULL), MODEL, 1)
  # A row of 20 + 6 * 11 tokens is one block of 128; a micro-batch has two.
  assert found == (2 * 128, 2 * 128**2, 2 * 128)
  longer = SHAPE._replace(trunk=1000)
  found = drawn.in_kernel(drawn.draw(longer, FULL), MODEL, 1)
  assert 0.5 < found.pairs / (found.tokens**2 / 2) < 0.8
  local = dataclasses.replace(MODEL, sliding_window=16)
  less = drawn.in_kernel(drawn.draw(longer, FULL), local, 1)
  assert less.tokens == found.tokens and less.pairs < found.pairs


def test_the_devices_of_a_row_wait_for_the_one_with_the_most_pairs():
  longer = drawn.draw(SHAPE._replace(trunk=1000), FULL)
  one, four = (drawn.in_kernel(longer, MODEL, devices) for devices in (1, 4))
  # Whole blocks for each.
  assert one.tokens <= four.tokens < 1.5 * one.tokens
  assert four.tokens % (4 * 128) == 0
  # The last part of a row sees all of the trunk, and the first what is before.
  assert 1.2 < four.pairs / one.pairs < 4


def test_the_least_work_is_of_tokens_that_are_seen():
  batch = drawn.draw(SHAPE, FULL)
  # q and o 8 x 16, k and v 8 x 8, gate, up and down 8 x d_mlp.
  block = 2 * (2 * 128 + 2 * 64 + 3 * 8 * MODEL.d_mlp)
  table = 20 * 8
  tokens, branches = 3 * 20 + 18 * 11, 18 * 11
  # A query meets a key in 2 layers of 4 heads of 4, in two products.
  pairs = 3 * 20 * 21 / 2 + 3 * 3 * (11 * 10 + 11 * 20 + 2 * 66)
  assert batch.visible_pairs == pairs
  per_pair = 2 * 2 * 2 * 4 * 4
  ideal = Ideal(MODEL, ONE)
  assert ideal.update(batch).flops == 3 * (
    2 * (block * tokens + table * branches) + per_pair * pairs
  )
  lora = Ideal(dataclasses.replace(MODEL, lora=LoraConfig(rank=2)), ONE)
  saved = 2 * (block * tokens + table * branches)
  assert ideal.update(batch).flops - lora.update(batch).flops == saved
  trunks = ideal.trunks(3, 20)
  assert trunks.flops == 3 * (2 * block * 20 + per_pair * 210)
  # 18 completions of 10 tokens in 9 cells are 20 iterations, in each of which
  # weights are read once; a token sees its branch point and 6 of its own.
  iterations = ideal.decode(batch, completions=18, mean=10, live=9)
  assert iterations.flops == 180 * (2 * (block + table) + per_pair * (15 + 6))
  keys = 2 * 2 * 2 * 4 * (9 * 6 + 1.5 * 20)
  assert iterations.memory_bytes == 20 * 4 * (block + table + keys)
