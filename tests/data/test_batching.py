# SPDX-License-Identifier: Apache-2.0
"""Padded arrays hold exactly the trunks; trunks that do not fit are refused."""

import numpy as np
import pytest

from srl_jax.data.batching import collate, target_tokens, widths
from srl_jax.data.templates import PlainTemplate
from srl_jax.data.trunks import TrunkConfig, build_trunks
from srl_jax.tokenizers import ByteTokenizer
from tests.support.trajectories import TITLED, sums

TRUNKS, _ = build_trunks(
  [sums(3, "a"), sums(1, "longer")],
  PlainTemplate(),
  ByteTokenizer(),
  TrunkConfig(step_title_hint=False),
)


def test_arrays_hold_every_token_and_padding_is_marked():
  size = widths(TRUNKS)
  batch = collate(TRUNKS, trunk_width=40, points=4, stem_width=3)
  t = batch.trunks
  assert t.tokens_NS.shape == (2, 40) and t.stem_NKC.shape == (2, 4, 3)
  assert size == (len(TRUNKS[0].tokens), 3, 1, 14)
  np.testing.assert_array_equal(
    t.is_real_NK, [[True, True, True, False], [True, False, False, False]]
  )
  for n, trunk in enumerate(TRUNKS):
    assert t.length_N[n] == len(trunk.tokens)
    np.testing.assert_array_equal(t.tokens_NS[n, : t.length_N[n]], trunk.tokens)
    assert not t.tokens_NS[n, t.length_N[n] :].any()
    for k, point in enumerate(trunk.points):
      assert t.branch_at_NK[n, k] == point.at
      assert t.point_id_NK[n, k] == point.point_id
      np.testing.assert_array_equal(t.stem_NKC[n, k, :1], point.stem)
  padding = ~t.is_real_NK
  assert (t.branch_at_NK[padding] == 0).all()
  assert (t.stem_length_NK[padding] == 1).all()
  dtypes = {name: getattr(t, name).dtype for name in t._fields}
  assert dtypes.pop("point_id_NK") == np.uint32
  assert dtypes.pop("is_real_NK") == np.bool_
  assert set(dtypes.values()) == {np.dtype(np.int32)}


def test_target_tokens_are_stem_and_target():
  batch = collate(TRUNKS, trunk_width=40, points=3, stem_width=1)
  tokens_NKC, length_NK = target_tokens(batch, 14)
  point = TRUNKS[0].points[2]
  want = [*point.stem, *point.target_tokens]
  assert length_NK[0, 2] == len(want) == 14
  assert tokens_NKC[0, 2].tolist() == want
  assert length_NK[1].tolist() == [1 + len("step 0") + 1, 0, 0]
  assert not tokens_NKC[1, 1:].any()


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"trunk_width": 5}, "'a' has 28 trunk tokens.*raise trunk_width to 28"),
    ({"points": 2}, "'a' has 3 branch points.*raise points to 3"),
    ({"stem_width": 0}, "'a' has 1 stem tokens.*raise stem_width to 1"),
  ],
)
def test_what_does_not_fit_is_refused_with_the_width_to_set(change, words):
  fits = {"trunk_width": 40, "points": 3, "stem_width": 1}
  collate(TRUNKS, **fits)
  with pytest.raises(ValueError, match=words):
    collate(TRUNKS, **{**fits, **change})


def test_target_that_does_not_fit_is_refused():
  batch = collate(TRUNKS, trunk_width=40, points=3, stem_width=1)
  with pytest.raises(ValueError, match="raise width to 14"):
    target_tokens(batch, 12)
  # Widths count stems, here of titles, and fit exactly.
  titled, _ = build_trunks(
    [TITLED],
    PlainTemplate(),
    ByteTokenizer(),
    TrunkConfig(step_title_hint=True),
  )
  size = widths(titled)
  batch = collate(
    titled, trunk_width=size.trunk, points=size.points, stem_width=size.stem
  )
  target_tokens(batch, size.target)
  with pytest.raises(ValueError, match=f"raise width to {size.target},"):
    target_tokens(batch, size.target - 1)


def test_widths_of_nothing_are_an_error():
  with pytest.raises(ValueError, match="no trunks"):
    widths([])
