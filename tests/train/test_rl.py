# SPDX-License-Identifier: Apache-2.0
"""What an RL stage decides by itself, apart from its update steps."""

import jax

from srl_jax import loading, sharding
from srl_jax.evaluate.estimates import Estimate
from srl_jax.train import rl


def test_a_validation_decodes_no_more_branches_than_a_part_of_a_round(
  runs, tmp_path, monkeypatch
):
  seen = []

  def evaluate(*_, rows_per_batch, **__):
    seen.append(rows_per_batch)
    return {"reward": Estimate(0.0, 0.0, 0.0)}

  monkeypatch.setattr(rl, "evaluate_steps", evaluate)
  # Rounds of 8 trunks. A validation has all points of a trunk, up to three.
  for points, parts in ((3, 1), (1, 1), (1, 2)):
    config = runs.config(
      "srl",
      srl__trunks__points_per_trunk=points,
      srl__sampling__parts_per_round=parts,
      mesh__data=1,
      mesh__fsdp=-1,
    )
    mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
    with runs.quickly(), jax.set_mesh(mesh):
      run = loading.load_run(config, mesh, tmp_path)
      rl.RlStage(run, "srl", config.srl).validate(None)
  # 8 * 3 / 3, 8 * 1 / 3 and 4 * 1 / 3 trunks.
  assert seen == [8, 2, 1]
