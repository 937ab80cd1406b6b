# SPDX-License-Identifier: Apache-2.0
"""Where the branches of groups lie in packed micro-batches."""

import collections

import jax
import numpy as np

from srl_jax import reductions
from srl_jax.testing.tiny import (
  make_trunk,
  make_trunks,
)
from srl_jax.update import packing
from srl_jax.update.grpo import (
  sft_loss,
)
from srl_jax.update.packing import PackShape, pack
from tests.support import scripted
from tests.support.packed import experience_of, groups_of


def the_docstrings_example():
  """Groups of trunks x, y and z, whose branches take these cells."""
  trunks = make_trunks(
    [
      make_trunk([1, 2, 3, 4], (4, [9], 1), (2, [9], 2)),
      make_trunk([5, 6], (1, [9], 3)),
      make_trunk([7, 8, 9], (3, [9], 4)),
    ]
  )
  cells_NR = np.array([[2, 4, 3, 2], [3, 1, 0, 0], [2, 0, 0, 0]])
  # Token 10 * branch + place, branches numbered from 1 in each trunk.
  tokens_NRC = np.broadcast_to(
    10 * np.arange(1, 5)[None, :, None] + np.arange(5), (3, 4, 5)
  )
  reward_NKG = np.arange(12.0).reshape(3, 2, 2) ** 2
  return groups_of(experience_of(trunks, tokens_NRC, cells_NR, reward_NKG))


def picture(batch, n):
  """Returns the number of the branch in each cell of a row, as text."""
  found = np.where(batch.position_NBW[n] >= 0, batch.tokens_NBW[n] // 10, 0)
  return ["".join(str(x or ".") for x in lane) for lane in found]


def test_the_docstrings_example_is_packed_as_it_says():
  shape = PackShape(rows=2, trunks=2, lanes=3)
  [batch] = pack(the_docstrings_example(), shape, update_step=3)
  assert picture(batch, 0) == ["2222", "333.", "1144"]
  assert picture(batch, 1) == ["1112", "11..", "...."]
  assert batch.trunk_of_NB.tolist() == [[0, 0, 0], [0, 1, 0]]
  assert batch.trunk_NUS[0].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0]]
  assert batch.trunk_NUS[1, :, :3].tolist() == [[5, 6, 0], [7, 8, 9]]
  # No longer than some branch sees.
  assert batch.trunk_length_NU.tolist() == [[4, 0], [1, 3]]
  assert batch.branches_N.tolist() == [4, 3]
  # Branches 1 and 2 of trunk x leave it after 4 tokens, 3 and 4 after 2.
  assert batch.position_NBW[0].tolist() == [
    [4, 5, 6, 7],
    [2, 3, 4, -1],
    [4, 5, 2, 3],
  ]
  assert batch.first_NBW[0, 2].tolist() == [0, 0, 2, 2]
  assert batch.targets_NBW[0, 2].tolist() == [11, 12, 41, 42]
  assert batch.completion_tokens_NBW[0].tolist() == [
    [4, 4, 4, 4],
    [3, 3, 3, 0],
    [2, 2, 2, 2],
  ]
  np.testing.assert_allclose(
    batch.sampler_logp_NBW[0, 2], [-1.1, -1.2, -4.1, -4.2], rtol=1e-6
  )
  # The better sample of each group is the second: 0, 1; 4, 9.
  np.testing.assert_allclose(batch.advantage_NBW[0, 2], [-1, -1, 1, 1])
  [batch] = pack(
    the_docstrings_example(), shape, update_step=3, divide_by_std=False
  )
  assert batch.advantage_NBW[0, 2].tolist() == [-0.5, -0.5, 2.5, 2.5]
  assert batch.is_fresh_NBW[0].tolist() == (batch.position_NBW[0] >= 0).tolist()


def test_a_trunk_with_more_lanes_than_there_are_goes_to_several_rows():
  shape = PackShape(rows=1, trunks=2, lanes=2)
  first, second, third = pack(the_docstrings_example(), shape, update_step=3)
  assert picture(first, 0) == ["2222", "333."]
  assert picture(second, 0) == ["1112", "11.."]
  # The rest of trunk x sees as much of it as before.
  assert picture(third, 0) == ["1144", "...."]
  for batch in (first, third):
    assert batch.trunk_NUS[0, 0].tolist() == [1, 2, 3, 4]
    assert batch.trunk_length_NU.tolist() == [[4, 0]]


def test_empty_rows_fill_up_the_last_micro_batch():
  shape = PackShape(rows=4, trunks=2, lanes=3)
  [batch] = pack(the_docstrings_example(), shape, update_step=3)
  for n in (2, 3):
    assert picture(batch, n) == ["....", "....", "...."]
    assert not batch.trunk_length_NU[n].any() and not batch.branches_N[n]
    assert not batch.completion_tokens_NBW[n].any()
    assert not batch.advantage_NBW[n].any() and not batch.is_fresh_NBW[n].any()
  none = the_docstrings_example().pick(slice(0))
  [empty] = pack(none, shape, update_step=3)
  assert [(x.shape, x.dtype) for x in empty] == [
    (x.shape, x.dtype) for x in batch
  ]
  assert (empty.position_NBW == -1).all()


def test_only_groups_of_this_step_are_fresh():
  groups = the_docstrings_example()
  groups = groups._replace(born_P=np.array([3, 4, 4, 4]))
  [batch] = pack(groups, PackShape(1, 4, 6), update_step=4)
  # The first group is branches 1 and 2 of trunk x.
  assert picture(batch, 0)[:3] == ["2222", "333.", "1144"]
  assert batch.is_fresh_NBW[0, :3].tolist() == [
    [False] * 4,
    [True] * 3 + [False],
    [False, False, True, True],
  ]


def test_nothing_is_lost_or_doubled():
  rng = np.random.default_rng(0)
  seen, lanes_used = [], []
  for shape in (PackShape(2, 2, 5), PackShape(1, 1, 2), PackShape(3, 3, 9)):
    trunks = make_trunks(
      [
        make_trunk(range(1, 5), *((k + 1, [1], 10 * n + k) for k in range(4)))
        for n in range(9)
      ]
    )
    cells_NR = rng.integers(1, 9, (9, 12))
    # A token says its branch and its place in it.
    tokens_NRC = 100 * np.arange(108).reshape(9, 12, 1) + np.arange(9)
    rewards = rng.random((9, 4, 3))
    groups = groups_of(
      experience_of(trunks, tokens_NRC, cells_NR, rewards),
      rng.random((9, 4)) < 0.5,
    )
    want = collections.Counter(
      int(x)
      for x, is_token in zip(
        groups.batch.branches.tokens_NRC[..., :-1].ravel(),
        (np.arange(8) < groups.batch.branches.length_NR[..., None] - 1).ravel(),
        strict=True,
      )
      if is_token
    )
    found = collections.Counter()
    for batch in pack(groups, shape, update_step=3):
      is_token = batch.position_NBW >= 0
      found.update(batch.tokens_NBW[is_token].tolist())
      np.testing.assert_array_equal(
        batch.targets_NBW[is_token], batch.tokens_NBW[is_token] + 1
      )
      lanes_used.append(is_token.any(-1).mean())
    assert found == want
    seen.append(sum(found.values()))
  assert min(seen) > 100 and np.mean(lanes_used) > 0.5


def test_positions_used_counts_tokens_of_trunks_and_lanes():
  [batch] = pack(the_docstrings_example(), PackShape(2, 2, 3), update_step=3)
  script = scripted.after_token(np.zeros((50, 50)))
  loss_fn = sft_loss(scripted.ScriptedModel(), max_logits=0)
  _, metrics = jax.jit(loss_fn)(script, batch, None)
  got = reductions.reduce_metrics([metrics])["positions_used"]
  # Trunks of 4, 1 and 3 tokens in 4 places of 4; 17 cells of 24.
  assert got == (8 + 17) / (16 + 24)


def test_a_micro_batch_is_filled_when_it_is_taken(monkeypatch):
  filled = []
  fill = packing._fill_cells

  def note(*args, **kwargs):
    filled.append(len(filled))
    return fill(*args, **kwargs)

  monkeypatch.setattr(packing, "_fill_cells", note)
  batches = pack(the_docstrings_example(), PackShape(1, 1, 2), update_step=3)
  next(batches)
  assert filled == [0]
  assert len(list(batches)) + 1 == len(filled) > 1
