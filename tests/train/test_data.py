# SPDX-License-Identifier: Apache-2.0
"""What a run says of the data that it trains on."""

import dataclasses

import pytest

from srl_jax.data.templates import PlainTemplate
from srl_jax.data.trunks import ExpertTrunkConfig, TrunkConfig
from srl_jax.tokenizers import ByteTokenizer
from srl_jax.train.data import build_split
from srl_jax.train.stage import Run
from srl_jax.trajectory import Step
from tests.support.trajectories import sums

RUN = Run(
  seed=0,
  mesh=None,
  rules=None,
  rollout_rules=None,
  policy=None,
  tokenizer=ByteTokenizer(),
  template=PlainTemplate(),
)


def test_a_run_says_once_which_branch_points_are_dropped_and_why(capsys):
  of_three = sums(3, "a")
  data = [of_three, dataclasses.replace(sums(2, "bb"), id="other")]
  # Contexts of 11, 18 and 28 tokens, and of 12 and 19.
  config = TrunkConfig(max_trunk_tokens=18)
  for split in ("train", "train", "valid"):
    assert len(build_split(RUN, data, config, split)) == 2
  reason = "context over max_trunk_tokens=18"
  assert capsys.readouterr().out.splitlines() == [
    f"{split}: 2 of 5 branch points are dropped: {reason}; the first is"
    f" {of_three.id}/step/2"
    for split in ("train", "valid")
  ]


SHOWN = Step("step", title="Title", is_target=False)


@pytest.mark.parametrize(
  ("step", "config", "cure"),
  [
    (Step("step"), {"max_trunk_tokens": 2}, "raise max_trunk_tokens"),
    (Step("step"), {"max_target_tokens": 2}, "raise max_target_tokens"),
    (Step("step"), {"include_thoughts": True}, "set include_thoughts=False"),
    (Step("step"), {"last_step": "exclude"}, "set last_step='include'"),
    (Step("", "Title"), {"step_title_hint": True}, "step_title_hint=False"),
    (Step("a <think> b"), {}, "move what is between the tags to the step's"),
    (SHOWN, {}, "set is_target or c.data.target_tools"),
    (None, {}, "set c.data.train_size"),
  ],
)
def test_if_nothing_is_left_the_cure_is_that_of_the_reason(step, config, cure):
  given = [dataclasses.replace(sums(1), steps=(step,))] if step else []
  with pytest.raises(ValueError, match=rf"dropped: {{.*}}\); [^;]*{cure}"):
    build_split(RUN, given, ExpertTrunkConfig(**config), "train")
