# SPDX-License-Identifier: Apache-2.0
"""Parameters in one .safetensors file, with the model's shape beside them.

The format of this program's own small checkpoints (the embedded student).
Tensors are named by their path, "blocks/mlp/gate"; the metadata hold the
ModelConfig.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from srl_jax.models.transformer import LanguageModel, ModelConfig
from srl_jax.sharding import tree_shardings

# Fields that say how the model is run, not which weights it has.
_RUNTIME = (
  "attention_kernel",
  "attention_logits",
  "dtype",
  "max_positions",
  "param_dtype",
  "remat",
)


def save_params(
  path: str | os.PathLike, params: Any, config: ModelConfig
) -> None:
  """Writes parameters in float32; the file appears whole or not at all.

  All processes must call it, because parts of a tensor may lie with any of
  them; the first one writes.
  """
  path = pathlib.Path(path)
  arrays = {}
  for name, value in traverse_util.flatten_dict(params, sep="/").items():
    whole = NamedSharding(value.sharding.mesh, PartitionSpec())
    gathered = jax.device_get(jax.device_put(value, whole))
    arrays[name] = np.ascontiguousarray(gathered, np.float32)
  if jax.process_index() != 0:
    return
  metadata = {"model_config": json.dumps(dataclasses.asdict(config))}
  temporary = path.with_suffix(".tmp")
  safetensors.numpy.save_file(arrays, temporary, metadata)
  os.replace(temporary, path)


def load_params(
  path: str | os.PathLike, model: LanguageModel, mesh: jax.sharding.Mesh
) -> Any:
  """Reads parameters into arrays sharded as the model's rules say.

  Raises:
    ValueError: no such file, not a file of this kind, or one of a model of
      another shape; the message lists the fields that differ.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(
      f"there are no weights at {path}; set c.weights to 'random', "
      "'embedded', or the path of a .safetensors file written by this program"
    )
  try:
    file = safetensors.safe_open(path, "numpy")
    saved = json.loads((file.metadata() or {})["model_config"])
  except (safetensors.SafetensorError, KeyError) as error:
    raise ValueError(
      f"{path} is not a weights file of this program ({error!r}); files of "
      "other programs have to be converted first"
    ) from error
  here = dataclasses.asdict(model.config)
  different = [
    f"{name} is {saved.get(name)!r} there and {here[name]!r} here"
    for name in here
    if name not in _RUNTIME and saved.get(name) != here[name]
  ]
  if different:
    raise ValueError(
      f"{path} belongs to a model of another shape: {'; '.join(different)}; "
      "set the fields of c.model (and the tokenizer) to what is there"
    )
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  shardings = traverse_util.flatten_dict(
    tree_shardings(abstract, mesh, model.rules), sep="/"
  )
  dtype = model.config.param_dtype
  arrays = {
    name: jax.device_put(file.get_tensor(name).astype(dtype), sharding)
    for name, sharding in shardings.items()
  }
  return traverse_util.unflatten_dict(arrays, sep="/")
