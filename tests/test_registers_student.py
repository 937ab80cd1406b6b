# SPDX-License-Identifier: Apache-2.0
"""The shipped student fits these data, and is as able and lazy as planned."""

import jax
import numpy as np
import pytest

from srl_jax.data import batching, trunks
from srl_jax.data.templates import PlainTemplate
from srl_jax.data.trunks import ExpertTrunkConfig
from srl_jax.domains import registers
from srl_jax.loading import STUDENTS
from srl_jax.models import LanguageModel, ModelConfig, weights
from srl_jax.testing import tiny
from srl_jax.testing.lanes import branch_logps
from srl_jax.tokenizers import TokenizerConfig, make_tokenizer
from srl_jax.train.sft import expert_experience


@pytest.fixture(scope="module")
def nats_of():
  """How unlikely the student finds thoughts and steps: [N, K] per step."""
  path = f"{STUDENTS['registers_student']}/tokenizer.model"
  tokenizer = make_tokenizer(
    TokenizerConfig(kind="sentencepiece", path=path), []
  )
  model = LanguageModel(ModelConfig(vocab_size=tokenizer.vocab_size))
  mesh = tiny.small_mesh()
  params = weights.load_params(
    STUDENTS["registers_student"], model, mesh, jax.random.key(0)
  )

  @jax.jit
  def logps(batch):
    return branch_logps(
      model,
      params,
      batch.trunks,
      batch.branches,
      temperature=1.0,
      max_logits=0,
    )[0]

  def nats_of(trajectories):
    found, _ = trunks.build_trunks(
      trajectories,
      PlainTemplate(),
      tokenizer,
      ExpertTrunkConfig(include_thoughts=True),
    )
    widths = batching.widths(found)
    batch = batching.collate(
      found,
      trunk_width=widths.trunk,
      points=widths.points,
      stem_width=widths.stem,
    )
    batch = expert_experience(batch, widths.target)
    counted_NRC = batch.branches.is_completion_NRC
    return -np.where(counted_NRC, logps(batch), 0).sum(-1)

  return nats_of


def test_it_solves_easy_problems_step_by_step(nats_of):
  easy = registers.generate("valid", 16, blocks=3, lines=2)
  # More likely than not by far; a guessed digit alone would be 2.3 nats.
  assert np.median(nats_of(easy)) < 0.2


def test_on_hard_problems_it_can_but_hardly_does(nats_of):
  hard = nats_of(registers.generate("valid", 16))
  # Thinking on after the first line was taught with probability 0.04.
  planted = -np.log(0.04)
  assert abs(np.median(hard) - planted) < 1.0
