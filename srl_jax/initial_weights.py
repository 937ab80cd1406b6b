# SPDX-License-Identifier: Apache-2.0
"""The parameters that a run starts from, and whether they are unchanged.

Checkpoints do not hold the base of adapters, nor the reference of a KL penalty:
a resumed run reads both again from c.weights.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
from flax import linen as nn

from srl_jax import sharding
from srl_jax.config import Config
from srl_jax.loading import STUDENTS
from srl_jax.models import weights
from srl_jax.sharding import abstract
from srl_jax.storage import files, hub
from srl_jax.storage.workdir import RefusedError
from srl_jax.train.stage import Run

# File in the workdir for checksums of the weights that it began with.
WEIGHTS = "weights.json"


def initial_params(run: Run) -> Any:
  """Returns the parameters of the first stage, created on the mesh."""
  key = run.key("weights")
  if run.weights == "random":
    return sharding.born_sharded(
      run.policy.init, key, mesh=run.mesh, rules=run.rules
    )
  folder = hub.fetch(run.weights)
  return weights.load_params(folder, run.policy, run.mesh, key)


def abstract_params(run: Run) -> Any:
  """Returns shapes, dtypes and shardings of all parameters."""
  boxed = jax.eval_shape(run.policy.init, jax.random.key(0))
  shardings = sharding.tree_shardings(boxed, run.mesh, run.rules)
  return abstract.with_shardings(nn.unbox(boxed), shardings)


def base_params(run: Run, config: Config, workdir: pathlib.Path) -> Any:
  """Returns the parameters that a run of `load_saved` started from.

  Raises:
    ValueError: they are gone, or are others now.
  """
  if config.weights == "random":
    return initial_params(run)
  source = STUDENTS.get(config.weights, config.weights)
  params = initial_params(dataclasses.replace(run, weights=source))
  check_weights(params, config, workdir)
  return params


def write_weights(params: Any, config: Config, workdir: pathlib.Path) -> None:
  """Writes checksums of the weights of a new run, for `check_weights`."""
  if config.weights != "random":
    files.write_json(workdir / WEIGHTS, weights.checksums(params))


def check_weights(params: Any, config: Config, workdir: pathlib.Path) -> None:
  """Refuses other weights than those that the run in `workdir` started from.

  Checkpoints do not hold the base of adapters, nor the reference of a KL
  penalty: both are read again.

  Raises:
    RefusedError: they are others now.
  """
  path = workdir / WEIGHTS
  if config.weights == "random" or not path.exists():
    return
  now, before = weights.checksums(params), json.loads(path.read_text())
  changed = [name for name in now if now[name] != before.get(name)]
  if changed:
    raise RefusedError(
      f"the weights in {config.weights} changed since {workdir} was begun "
      f"({len(changed)} of {len(now)} parameters, such as {changed[0]!r}); "
      "put back those that it started from, or train in another --workdir"
    )
