# SPDX-License-Identifier: Apache-2.0
"""What a run says of the data that it trains on."""

import dataclasses

from srl_jax.data.templates import PlainTemplate
from srl_jax.data.trunks import TrunkConfig
from srl_jax.tokenizers import ByteTokenizer
from srl_jax.train.data import build_split
from srl_jax.train.stage import Run
from tests.support.trajectories import sums


def test_a_run_says_once_which_branch_points_are_dropped_and_why(capsys):
  run = Run(
    seed=0,
    mesh=None,
    rules=None,
    rollout_rules=None,
    policy=None,
    tokenizer=ByteTokenizer(),
    template=PlainTemplate(),
  )
  of_three = sums(3, "a")
  data = [of_three, dataclasses.replace(sums(2, "bb"), id="other")]
  # Contexts of 11, 18 and 28 tokens, and of 12 and 19.
  config = TrunkConfig(max_trunk_tokens=18)
  for split in ("train", "train", "valid"):
    assert len(build_split(run, data, config, split)) == 2
  reason = "context over max_trunk_tokens=18"
  assert capsys.readouterr().out.splitlines() == [
    f"{split}: 2 of 5 branch points are dropped: {reason}; the first is"
    f" {of_three.id}/step/2"
    for split in ("train", "valid")
  ]
