# SPDX-License-Identifier: Apache-2.0
"""Many seeds at once are the same runs one by one."""

import csv

import numpy as np
import pytest

from srl_jax import seeds

# What runs of one program per step have, in runs of srl_jax.main too.
FUSED = {
  "srl__passes": 1,
  "srl__loss__kl_coefficient": 0.0,
  "srl__reward_on": "device",
  "srl__dynamic_sampling__refill": False,
  "srl__steps": 3,
  "srl__validate_every": 0,
}


@pytest.fixture(scope="module")
def fused(whole):
  """Changes to the config; it starts from a model that knows the format."""
  return FUSED | {
    "weights": str(whole.workdir / "model"),
    "tokenizer__path": str(whole.workdir / "tokenizer.model"),
    "tokenizer__train_vocab_size": 0,
  }


@pytest.fixture(scope="module")
def members_and_curves(runs, fused):
  config = runs.config("srl", **fused)
  _, stage = seeds._only_stage(config)
  members = seeds.make_members(
    stage, [0, 1], {"learning_rate": [0.01, 0.1], "clip_low": [0.2]}
  )
  folder = runs.folder / "seeds"
  folder.mkdir()
  with runs.quickly():
    return members, seeds.train_members(config, folder, members)


def test_members_are_all_combinations(members_and_curves):
  members, curves = members_and_curves
  assert [(m.seed, m.settings["learning_rate"]) for m in members] == [
    (0, 0.01),
    (1, 0.01),
    (0, 0.1),
    (1, 0.1),
  ]
  assert {x.shape for x in curves.values()} == {(4, 3)}
  # A larger step leads elsewhere, once a step was taken.
  entropy = curves["entropy"]
  np.testing.assert_allclose(entropy[0, 0], entropy[2, 0], rtol=1e-5)
  assert abs(entropy[0, 2] - entropy[2, 2]) > 1e-4


@pytest.mark.parametrize("seed", [0, 1])
def test_a_member_is_the_run_with_its_seed(
  runs, fused, members_and_curves, seed, tmp_path
):
  _, curves = members_and_curves
  run = runs.run(tmp_path, "srl", seed=seed, **fused)
  rows = [row for row in run.rows() if "srl/reward" in row]
  assert rows[0]["srl/groups_kept"] > 0, "something to learn from"
  for name in ("reward", "format_failure", "kept_share", "entropy"):
    np.testing.assert_allclose(
      curves[name][seed],
      [row[f"srl/{name}"] for row in rows],
      rtol=1e-4,
      atol=1e-5,
      err_msg=name,
    )


def test_curves_are_written_with_mean_and_interval(
  members_and_curves, tmp_path
):
  members, curves = members_and_curves
  path = tmp_path / "curves.csv"
  seeds.write_curves(path, members, curves)
  with open(path, newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 2 * len(curves) * 3
  row = next(r for r in rows if r["curve"] == "reward" and r["step"] == "2")
  first, second = curves["reward"][:2, 1]
  assert float(row["seed_0"]) == pytest.approx(first, rel=1e-5)
  assert float(row["mean"]) == pytest.approx((first + second) / 2, rel=1e-5)
  assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
  assert "2 seeds" in seeds.summary(members, curves)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"srl__passes": 2}, "passes=2"),
    ({"srl__reward__function": "answer"}, "rewards on the device"),
  ],
)
def test_what_is_not_one_program_is_refused(runs, changes, message):
  with pytest.raises(ValueError, match=message):
    seeds._only_stage(runs.config("srl", **(FUSED | changes)))


def test_several_stages_are_refused(runs):
  with pytest.raises(ValueError, match="one stage of srl or rlvr"):
    seeds._only_stage(runs.config("sft_srl"))


@pytest.mark.parametrize("text", ["rate=1", "clip_low", "clip_low=x"])
def test_a_wrong_setting_says_what_to_type(text):
  with pytest.raises(ValueError, match="--vary"):
    seeds._parse_vary([text])
