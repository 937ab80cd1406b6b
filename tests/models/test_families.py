# SPDX-License-Identifier: Apache-2.0
"""Every family computes what transformers computes, by golden numbers.

test_parity.py compares with transformers itself, where it is installed.
"""

import jax
import numpy as np
import pytest

from srl_jax.models import LanguageModel, hf_files, weights
from srl_jax.rollout.decode import SamplingConfig, rollout
from srl_jax.testing.tiny import small_mesh
from srl_jax.types import Trunks
from tests.models.make_golden import NEW_TOKENS, PATH, TOKENS
from tests.support import families

GOLDEN = np.load(PATH)
# Float32 through up to seven layers of large weights, summed in another order:
# 5e-5 was seen. A window of one more, or a cap left out, is 100 times as much.
CLOSE = {"rtol": 0, "atol": 3e-4}


@pytest.fixture(scope="module", params=families.CONFIGS)
def loaded(request, tmp_path_factory):
  """(family, model, parameters)."""
  folder = tmp_path_factory.mktemp(request.param) / "model"
  families.write(folder, request.param)
  model = LanguageModel(hf_files.HfCheckpoint(folder).config)
  mesh = small_mesh()
  with jax.set_mesh(mesh):
    params = weights.load_params(folder, model, mesh, jax.random.key(0))
    yield request.param, model, params


def logits_of(model, params, trunk_width):
  """Logits [2, T, V] of what follows a trunk of so many tokens."""
  position_NS = np.broadcast_to(np.arange(TOKENS.shape[1]), TOKENS.shape)

  @jax.jit
  def run(params):
    trunk = model.trunk(
      params, TOKENS[:, :trunk_width], position_NS[:, :trunk_width]
    )
    hidden, _ = model.branch(
      params,
      TOKENS[:, None, trunk_width:],
      position_NS[:, None, trunk_width:],
      np.full((2, 1), trunk_width),
      trunk,
    )
    return model.logits(params, hidden)[:, 0]

  return np.asarray(run(params))


def test_logits_are_those_of_transformers(loaded):
  family, model, params = loaded
  want = GOLDEN[f"{family}/logits"]
  # Nearly flat ones would agree with anything.
  assert want.std() > 0.3
  # Nearly all in the branch, and cut where windows reach into the trunk.
  for width in (1, 13):
    got = logits_of(model, params, width)
    first = -(-width // 3)
    np.testing.assert_allclose(
      got[:, first * 3 - width :: 3], want[:, first:], **CLOSE
    )


def test_greedy_continuations_are_those_of_transformers(loaded):
  family, model, params = loaded
  # The last token is the stem; the cache starts small and has to grow.
  trunks = Trunks(
    tokens_NS=TOKENS[:, :-1].astype(np.int32),
    length_N=np.full(2, TOKENS.shape[1] - 1, np.int32),
    branch_at_NK=np.full((2, 1), TOKENS.shape[1] - 1, np.int32),
    stem_NKC=TOKENS[:, None, -1:].astype(np.int32),
    stem_length_NK=np.ones((2, 1), np.int32),
    point_id_NK=np.zeros((2, 1), np.uint32),
    is_real_NK=np.ones((2, 1), bool),
  )
  config = SamplingConfig(
    samples=1, max_new_tokens=NEW_TOKENS, temperature=0.0, cache_start=4
  )

  @jax.jit
  def sample(params):
    return rollout(
      model,
      params,
      trunks,
      jax.random.key(0),
      config=config,
      stop_ids=(),
      pad_id=0,
    )[0].tokens_NRC

  got = np.asarray(sample(params))[:, 0, 1:]
  np.testing.assert_array_equal(got, GOLDEN[f"{family}/written"])
  assert len(np.unique(got)) > 3, "a loop of a token or two shows little"
