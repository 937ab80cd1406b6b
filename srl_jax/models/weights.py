# SPDX-License-Identifier: Apache-2.0
"""Parameters from Hugging Face checkpoint folders onto the mesh, and back.

Every device reads as many rows of a tensor as the others, in its stored layout,
and devices exchange what belongs to them. So a pod reads a checkpoint once, and
not once per host. A process reads one parameter at a time, so that host memory
stays near twice its part of one. `save_params` writes such folders.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import json
import math
import os
import pathlib
import shutil
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import linen as nn
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec
from tqdm import tqdm

from srl_jax import agreement, storage
from srl_jax.models import hf_layout, lora
from srl_jax.models.config import differences
from srl_jax.models.hf_config import to_hf_config
from srl_jax.models.hf_files import HfCheckpoint
from srl_jax.models.hf_index import INDEX, SINGLE
from srl_jax.models.hf_layout import Place
from srl_jax.models.transformer import LanguageModel
from srl_jax.sharding import gather_objects, parts, replicated, tree_shardings

# Number of reading threads: network disks are slow one file at a time.
_READERS = 8


def load_params(
  folder: str | os.PathLike,
  model: LanguageModel,
  mesh: jax.sharding.Mesh,
  key: jax.Array,
) -> Any:
  """Reads parameters into arrays sharded as the model's rules say.

  Args:
    folder: a checkpoint folder.
    model: the model; the parameters get its param_dtype.
    mesh: the mesh to place them on.
    key: random key of new adapters, which no folder holds.

  Raises:
    ValueError: the folder is incomplete or of another model; the message
      lists the fields and tensors that differ.
  """
  checkpoint = HfCheckpoint(folder)
  if differ := differences(checkpoint.config, model.config):
    raise ValueError(
      f"{folder} belongs to a model of another shape: {'; '.join(differ)}; "
      "set the fields of c.model (and the tokenizer) to what is there"
    )
  places = hf_layout.places(model.config)
  checkpoint.check(places, model.config.tie_embeddings)
  abstract = jax.eval_shape(model.init, jax.random.key(0))
  shardings = traverse_util.flatten_dict(
    tree_shardings(abstract, mesh, model.rules), sep="/"
  )
  dtype = jnp.dtype(model.config.param_dtype)
  size = sum(
    math.prod(place.stored_shape) * len(place.names)
    for place in places.values()
  )
  arrays = {}
  with (
    concurrent.futures.ThreadPoolExecutor(_READERS) as readers,
    # The bar shows only if reading takes longer than `delay` seconds.
    tqdm(
      total=size,
      desc=f"weights of {pathlib.Path(folder).name}",
      unit=" parameters",
      unit_scale=True,
      delay=5,
      disable=jax.process_index() != 0,
    ) as bar,
  ):
    for path, place in places.items():
      arrays[path] = _read(checkpoint, place, shardings[path], dtype, readers)
      bar.update(math.prod(place.stored_shape) * len(place.names))
  # Others did not read what one process found.
  checkpoint.not_finite.update(*gather_objects(checkpoint.not_finite))
  checkpoint.check_finite()
  params = traverse_util.unflatten_dict(arrays, sep="/")
  return lora.join(_adapters(model, key, shardings), params)


def checksums(params: Any) -> dict[str, int]:
  """Returns a checksum of each parameter that a folder may hold, by its path.

  It is the sum of the bit patterns modulo 2^32, which is the same on any mesh.
  Adapters are left out. All processes must call it together.
  """
  flat = traverse_util.flatten_dict(params, sep="/")
  sums = jax.jit(lambda tree: jax.tree.map(_sum_of_bits, tree))(
    {path: x for path, x in flat.items() if not lora.is_adapter(path)}
  )
  return {path: int(x) for path, x in sums.items()}


def _sum_of_bits(x: jax.Array) -> jax.Array:
  bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
  return jnp.sum(bits, dtype=jnp.uint32)


def _adapters(model: LanguageModel, key: jax.Array, shardings) -> Any:
  """New adapters, born sharded; {} if the model has none."""

  def init(key):
    return lora.adapters(nn.unbox(model.init(key)))

  flat = traverse_util.flatten_dict(jax.eval_shape(init, key), sep="/")
  out = {path: shardings[path] for path in flat}
  out = traverse_util.unflatten_dict(out, sep="/")
  return jax.jit(init, out_shardings=out)(key) if flat else {}


def _read(checkpoint, place, target, dtype, readers) -> jax.Array:
  """Reads one parameter, and moves what devices read to where it belongs."""
  layers = (place.layers,) * bool(place.layers)
  as_read, *_ = _splits(place, target)

  @functools.cache
  def read(bounds):
    cuts = [slice(*pair) for pair in bounds]
    if layers:
      of_layers, *cut = cuts
      names = place.names[of_layers]
      read = readers.map(lambda name: checkpoint.part(name, tuple(cut)), names)
      read = [*read]
      if len({x.dtype for x in read}) > 1:
        # NumPy knows no type that both float16 and bfloat16 fit in.
        read = [x.astype(np.float32) for x in read]
      return np.stack(read)
    rows, *columns = cuts
    # A table is large, and one request is slow: each reader takes some rows.
    count = _READERS if place.kind == "table" else 1
    ends = np.linspace(rows.start, rows.stop, count + 1, dtype=int)
    pieces = [slice(*pair) for pair in itertools.pairwise(ends)]
    read = readers.map(
      lambda piece: checkpoint.part(place.name, (piece, *columns)), pieces
    )
    return np.concatenate([*read])

  shape = (*layers, *place.stored_shape)
  stored = jax.make_array_from_callback(
    shape,
    as_read,
    lambda index: read(
      tuple(x.indices(n)[:2] for x, n in zip(index, shape, strict=True))
    ),
  )
  move = _mover(place._replace(name=""), target, dtype)
  # Wait before the next parameter is read: transfers hold on to host memory.
  return jax.block_until_ready(move(stored))


@functools.cache
def _mover(place, target, dtype) -> Callable[[jax.Array], jax.Array]:
  """The program that moves stacked tensors, as they are read, to `target`."""
  _, *splits = _splits(place, target)

  def move(stored):
    for split in splits:
      stored = jax.lax.with_sharding_constraint(stored, split)
    return place.from_stored(stored).astype(dtype)

  return jax.jit(move, out_shardings=target)


def _splits(place: Place, target: NamedSharding) -> list[NamedSharding]:
  """How stacked tensors are split: as they are read first, then as they move.

  Every device reads as many rows, since rows lie together in a file. Columns
  take one mesh axis after the other from rows, or a device would get it all.
  """
  mesh = target.mesh
  if place.kind == "vector":
    return [replicated(mesh)]
  *layers, rows, columns = place.stored_spec(target.spec)
  kept = [*_axes(rows), *_axes(columns)]
  of_layers = [name for axis in layers for name in _axes(axis)]
  rest = [x for x in mesh.axis_names if x not in (*kept, *of_layers)]
  specs = [(*layers, rows, columns)]
  if place.stored_shape[0] % parts(mesh, (*kept, *rest)) == 0:
    specs = [
      (*layers, (*kept, *rest), None),
      (*layers, tuple(kept), None),
      *specs,
    ]
  return [NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs]


def _axes(part: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """Mesh axes in one entry of a PartitionSpec."""
  return (part,) if isinstance(part, str) else part or ()


def save_params(
  folder: str | os.PathLike,
  params: Any,
  model: LanguageModel,
  *,
  dtype: str,
  files: Sequence[pathlib.Path] = (),
  texts: Mapping[str, str] = types.MappingProxyType({}),
  token_ids: Mapping[str, Any] = types.MappingProxyType({}),
  max_file_bytes: int = 5 * 10**9,
) -> None:
  """Writes a checkpoint folder that transformers loads; adapters are merged.

  All processes must call it, because any of them may hold parts of a tensor.
  They write files side by side, and each holds one at a time in memory. The
  folder gets its name when everything in it is written.

  Args:
    folder: where to write; a folder that is there is replaced.
    params: parameters of the model, on its mesh.
    model: the model.
    dtype: "float32" or "bfloat16", of the weights in the files.
    files: files to copy beside the weights (the tokenizer's).
    texts: names and contents of further files; they replace those of `files`.
    token_ids: the fields of config.json that name tokens.
    max_file_bytes: upper bound of the size of a file; a new one is begun
      before it is passed.

  Raises:
    ValueError: no architecture of Hugging Face has this shape.
  """
  folder = storage.path(folder)
  config = to_hf_config(model.config, dtype) | token_ids
  params = jax.jit(lambda p: lora.merge(p, model.config.lora, dtype))(params)
  flat = traverse_util.flatten_dict(params, sep="/")
  places = hf_layout.places(model.config)
  itemsize = jnp.dtype(dtype).itemsize
  sizes = {
    name: math.prod(place.stored_shape) * itemsize
    for place in places.values()
    for name in place.names
  }
  names = _plan_files(sizes, max_file_bytes)
  with finished_folder(folder) as unfinished:
    _write_tensors(unfinished, flat, places, names, jnp.dtype(dtype))
    agreement.wait_for_all()
    if jax.process_index() == 0:
      if len(set(names.values())) > 1:
        total = {"total_size": sum(sizes.values())}
        index = {"metadata": total, "weight_map": names}
        (unfinished / INDEX).write_text(json.dumps(index, indent=2) + "\n")
      for file in files:
        (unfinished / file.name).write_bytes(file.read_bytes())
      for name, text in texts.items():
        (unfinished / name).write_bytes(text.encode())
      # Last: in a bucket, it says that the folder is complete.
      text = json.dumps(config, indent=2) + "\n"
      (unfinished / "config.json").write_text(text)


def _write_tensors(folder, flat, places, names, dtype) -> None:
  """Writes each file as soon as all of its tensors are there.

  Processes take files in turn. While one writes, the others get their tensors.
  """
  counts = collections.Counter(names.values())
  own = {*[*counts][jax.process_index() :: jax.process_count()]}
  pending: dict[str, tuple[Place, np.ndarray]] = {}
  writing: list[concurrent.futures.Future[None]] = []
  with concurrent.futures.ThreadPoolExecutor(1) as writer:
    for parameter, place in places.items():
      is_own = {x: names[x] in own for x in place.names}
      for name, array in hf_tensors(flat[parameter], place, is_own.get):
        if not pending:
          # One file at a time in memory.
          _raise_errors(writing)
        pending[name] = place, array
        if len(pending) == counts[names[name]]:
          path = folder / names[name]
          writing.append(writer.submit(_write_file, path, pending, dtype))
          pending = {}
    _raise_errors(writing)


def _raise_errors(futures) -> None:
  for future in futures:
    future.result()


def _write_file(path, tensors, dtype) -> None:
  for name, (place, array) in tensors.items():
    # Replaced one by one, since both layouts of all take twice the memory.
    tensors[name] = np.ascontiguousarray(place.write(array), dtype)
  with storage.written(path) as local:
    safetensors.numpy.save_file(tensors, local, {"format": "pt"})
    # save_file lets only the owner read the file.
    local.chmod(0o644)


def _plan_files(sizes: Mapping[str, int], limit: int) -> dict[str, str]:
  """Assigns a file to each tensor, in the order in which they are written."""
  number, filled, of_tensor = 1, 0, {}
  for name, size in sizes.items():
    if filled and filled + size > limit:
      number, filled = number + 1, 0
    filled += size
    of_tensor[name] = number
  if number == 1:
    return dict.fromkeys(sizes, SINGLE)
  return {
    name: f"model-{x:05}-of-{number:05}.safetensors"
    for name, x in of_tensor.items()
  }


def hf_tensors(
  value: jax.Array,
  place: Place,
  is_wanted: Callable[[str], bool] = lambda name: True,
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name of the tensor, whole array on the host), layer by layer.

  All processes must iterate over it together. Each gets those tensors that it
  wants.
  """
  everywhere = NamedSharding(value.sharding.mesh, PartitionSpec())
  take = jax.jit(
    lambda x, layer: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False),
    out_shardings=everywhere,
  )

  def gathered(layer):
    x = (
      take(value, layer) if place.layers else jax.device_put(value, everywhere)
    )
    # Whoever wants nothing must not be ahead: devices would hold it all.
    return jax.block_until_ready(x)

  for layer, name in enumerate(place.names):
    if is_wanted(name):
      yield name, jax.device_get(gathered(layer))
    else:
      gathered(layer)


@contextlib.contextmanager
def finished_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a folder to write to, which gets its name if all goes well.

  All processes must call it, and may write files of their own. The first one
  names the folder when it is through, so it waits for the others before. A
  folder that was there before is replaced. A folder in a bucket has its name
  from the beginning, and is complete when the caller wrote its config last.
  """
  is_first = jax.process_index() == 0
  if storage.is_remote(folder):
    if is_first and folder.exists():
      for config in folder.glob("*config.json"):
        config.unlink()
      folder.rmtree()
    agreement.wait_for_all()
    yield folder
    return
  unfinished = folder.with_name(f".{folder.name}.unfinished")
  if is_first:
    shutil.rmtree(unfinished, ignore_errors=True)
  agreement.wait_for_all()
  # Each makes it, since a shared disk may show it to the others later.
  unfinished.mkdir(parents=True, exist_ok=True)
  yield unfinished
  if not is_first:
    return
  old = folder.with_name(f".{folder.name}.old")
  shutil.rmtree(old, ignore_errors=True)
  if folder.exists():
    os.replace(folder, old)
  os.replace(unfinished, folder)
  shutil.rmtree(old, ignore_errors=True)
