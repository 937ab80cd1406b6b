# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: all that an exact resume needs, written in the background.

A checkpoint is the directory of one update step with four items: `state`
(sharded JAX arrays, written by Orbax), `pool` (host arrays whose shapes change
from save to save), `meta` (JSON: counters, iterator state) and `checksums` of
the files of the others. Pool and data stream are those of all processes
together, so any number of processes may go on. Once all files are written, one
rename gives the directory its final name (in a bucket, a marker file marks it
complete). So a process that is killed at any moment leaves the last complete
checkpoint restorable.

The folder `best` holds the parameters of the best validation value so far.
update/updater.py decides what belongs to the state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from srl_jax import agreement, progress, storage, strict
from srl_jax.checkpoint import sums
from srl_jax.checkpoint.fits import check_fits
from srl_jax.checkpoint.pool import (
  PoolHandler,
  PoolRestore,
  PoolSave,
  check_json,
  pack_pool,
)

# How often a reader begins to read best parameters that are replaced.
_TRIES = 5


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """How often checkpoints are saved, and how many are kept.

  Attributes:
    every_update_steps: update steps between checkpoints; 0 saves only at the
      end of a stage.
    keep: number of latest checkpoints to keep, `best` not counted; older ones
      are deleted once a newer one is complete.
  """

  every_update_steps: int = 100
  keep: int = 2

  def __post_init__(self):
    strict.check_numbers(self, every_update_steps="[0, )", keep="[1, )")


class Checkpointer:
  """Saves and restores the checkpoints in one directory.

  All processes must call every method, in the same order. Use as a context
  manager, or call `close`, which waits for the last write.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    config: CheckpointConfig,
    *,
    read_only: bool = False,
  ):
    """Opens a directory and removes unfinished writes before the first save.

    Args:
      directory: folder on gs://, or on a disk that all processes share; created
        if missing.
      config: see `CheckpointConfig`.
      read_only: True for reading a run that may still write (evaluation,
        export): nothing is created or removed.
    """
    self._config, self._is_reader = config, read_only
    path = storage.absolute(storage.path(directory))
    self._directory = epath.Path(path)
    self._best = _manager(self._directory / "best", 1, read_only, ("params",))
    self._steps = _manager(
      self._directory / "steps",
      config.keep,
      read_only,
      ("state", "pool"),
      # Else a run killed in between would resume after a validation whose
      # best parameters are lost.
      sums.SumsHandler(wait=self._best.wait_until_finished),
    )
    # Folders whose files were found to be as written, to read them only once.
    self._intact: set[epath.Path] = set()

  def is_due(self, step: int) -> bool:
    """Returns whether a checkpoint is due after `step` update steps."""
    every = self._config.every_update_steps
    return every > 0 and step > 0 and step % every == 0

  def save(
    self, step: int, state: Any, pool: Any, meta: Mapping[str, Any]
  ) -> None:
    """Saves a checkpoint in the background, unless the step is saved already.

    Returns once the device arrays are copied, so `state` may be donated to
    the next update step. At most one write is under way: the next `save`
    waits for it. It is complete only after the best parameters that were saved
    before it.

    Args:
      step: number of update steps done.
      state: pytree of JAX arrays.
      pool: nested dicts with string keys, lists, tuples and NamedTuples of
        numpy arrays of any shapes, the same on all processes.
      meta: JSON values, the same on all processes.

    Raises:
      ValueError: `meta` or `pool` would change on the way.
    """
    # Checked first: an error within Orbax would leave half a save.
    check_json(meta)
    pool_bytes = pack_pool(pool)
    if step in self._steps.all_steps():
      return
    self._steps.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        pool=PoolSave(pool_bytes),
        meta=ocp.args.JsonSave({"user": meta}),
        checksums=sums.SumsSave(),
      ),
      force=True,
    )

  def latest_step(self) -> int | None:
    """Returns the step of the last complete checkpoint; None if none exists."""
    step = self._steps.latest_step()
    # With several processes, Orbax gives an int32, which is not JSON.
    return None if step is None else int(step)

  def set_damaged_aside(self) -> None:
    """Moves damaged checkpoints to the folder `damaged`, and says which.

    Looks at the best parameters and at steps, newest first, up to the first
    that is intact. `latest_step` is then that one.

    Raises:
      DamagedError: there are checkpoints to resume from, all damaged.
    """
    self.wait()
    damaged = []
    for manager in (self._best, self._steps):
      for number in sorted(manager.all_steps(), reverse=True):
        try:
          self._check_files(manager, number)
          break
        except sums.DamagedError as error:
          damaged.append((manager, number, error))
    steps = [number for manager, number, _ in damaged if manager is self._steps]
    if steps and len(steps) == len(self._steps.all_steps()):
      raise sums.DamagedError(
        f"{damaged[-1][2]}; no checkpoint in {self._directory} is intact: put "
        "a copy in its place, or remove that folder to train the stage again"
      )
    for manager, number, error in damaged:
      self._set_aside(manager, number, error)

  def restore(
    self, step: int, abstract_state: Any
  ) -> tuple[Any, Any, dict[str, Any]]:
    """Reads a checkpoint back.

    Args:
      step: a saved update step, e.g. `latest_step()`.
      abstract_state: the state as `jax.ShapeDtypeStruct`s with shardings; the
        mesh and the number of processes may differ from those that saved.

    Returns:
      State, pool and meta. Tuples in the pool come back as lists, NamedTuples
      as dicts of their fields.

    Raises:
      DamagedError: its files are not what was written.
      ValueError: there is no such checkpoint, or its names, shapes or dtypes
        differ from `abstract_state`.
    """
    self._check_step(self._steps, step)
    self._check_files(self._steps, step)
    check_fits(
      self._steps.item_metadata(step)["state"],
      abstract_state,
      f"checkpoint {step} of {self._directory}",
    )
    meta = self._restore_item(step, "meta", ocp.args.JsonRestore())
    state = self._restore_item(
      step, "state", ocp.args.StandardRestore(abstract_state)
    )
    pool = self._restore_item(step, "pool", PoolRestore())
    return state, pool, meta["user"]

  def restore_params(self, step: int, abstract_params: Any) -> Any:
    """Returns only the parameters of a checkpoint, on any number of processes.

    The rest of the state is not read. See `restore` for the errors.
    """
    self._check_step(self._steps, step)
    self._check_files(self._steps, step)
    saved = self._steps.item_metadata(step)["state"]
    check_fits(
      saved["params"],
      abstract_params,
      f"checkpoint {step} of {self._directory}",
    )
    wanted = {"params": abstract_params}
    args = ocp.args.PyTreeRestore(
      wanted,
      restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
      partial_restore=True,
    )
    folder = self._directory / "steps" / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      return reader.restore(folder, args=args)["params"]

  def save_best(self, step: int, params: Any, value: float) -> None:
    """Saves `params` as the best parameters, in the background.

    The previous best stays until the new one is complete. The caller decides
    whether `value` is better; see `best`. After a kill the best parameters may
    be newer than the resumed checkpoint; the run then repeats the same
    evaluation and finds an equal value, not a better one.
    """
    self._best.wait_until_finished()
    # Numbered by saves, not steps: Orbax keeps the highest number, and after a
    # resume a better value may come at an earlier step than the previous best.
    self._best.save(
      (self._best.latest_step() or 0) + 1,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(params),
        meta=ocp.args.JsonSave({"step": step, "value": float(value)}),
        checksums=sums.SumsSave(),
      ),
    )

  def forget_best(self) -> None:
    """Removes the best parameters.

    They may be of an attempt that was killed before its first checkpoint, and
    whose settings were others.
    """
    for number in self._best.all_steps():
      self._best.delete(number)
    self._intact.clear()

  def best(self) -> tuple[int, float] | None:
    """Returns step and value of the best parameters; None if none exist."""
    self._best.wait_until_finished()
    number = self._best.latest_step()
    if number is None:
      return None
    args = ocp.args.Composite(meta=ocp.args.JsonRestore())
    with self._best_reader() as reader:
      meta = reader.restore(number, args=args)["meta"]
    return meta["step"], meta["value"]

  def restore_best(self, abstract_params: Any) -> Any:
    """Returns the best parameters; see `restore` for the errors.

    A reader gets newer ones if a run under way replaces these meanwhile.
    """
    self._best.wait_until_finished()
    args = ocp.args.Composite(params=ocp.args.StandardRestore(abstract_params))
    what = f"the best parameters of {self._directory}"
    for _ in range(_TRIES):
      number = self._best.latest_step()
      if number is None:
        raise ValueError(
          f"{self._directory} holds no best parameters yet; train past the"
          " first evaluation, or restore the latest checkpoint (damaged ones"
          f" are in {self._directory / 'damaged'}, if there were any)"
        )
      try:
        self._check_files(self._best, number)
        with self._best_reader() as reader:
          saved = reader.item_metadata(number)["params"]
          check_fits(saved, abstract_params, what)
          return reader.restore(number, args=args)["params"]
      except Exception:  # Whatever a missing file leads to.
        # Several processes read no run that is under way.
        if self._is_reader and jax.process_count() == 1:
          self._best.reload()
        if self._best.latest_step() == number:
          raise
    raise ValueError(f"{what} were replaced {_TRIES} times; try again")

  @contextlib.contextmanager
  def _best_reader(self) -> Iterator[ocp.CheckpointManager]:
    """Yields what the best parameters are read with.

    In a bucket, a manager that has saved takes its own item for an unfinished
    one, in all processes but the first.
    """
    if not storage.is_remote(self._directory) or jax.process_count() == 1:
      yield self._best
      return
    reader = _manager(
      self._directory / "best", 1, True, ("params",), prefix="best_reader"
    )
    with contextlib.closing(reader):
      yield reader

  def wait(self) -> None:
    """Waits until all writes are complete, and raises the errors they met."""
    self._steps.wait_until_finished()
    self._best.wait_until_finished()

  def close(self) -> None:
    self.wait()
    self._steps.close()
    self._best.close()

  def __enter__(self) -> Checkpointer:
    return self

  def __exit__(self, *exception: Any) -> None:
    self.close()

  def _check_step(self, manager: ocp.CheckpointManager, step: int) -> None:
    manager.wait_until_finished()
    if step not in manager.all_steps():
      known = ", ".join(map(str, sorted(manager.all_steps()))) or "none"
      raise ValueError(
        f"{self._directory} has no checkpoint {step}; there is: {known}"
      )

  def _check_files(self, manager: ocp.CheckpointManager, number: int) -> None:
    folder = manager.directory / str(number)
    if folder not in self._intact:
      sums.check(folder)
      self._intact.add(folder)

  def _set_aside(self, manager, number, error) -> None:
    aside = self._directory / "damaged" / manager.directory.name
    if jax.process_index() == 0:
      aside.mkdir(parents=True, exist_ok=True)
      # In a bucket, it may be what a move that was killed has moved.
      if (aside / str(number)).exists() and not storage.is_remote(aside):
        (aside / str(number)).rmtree()
      storage.move(manager.directory / str(number), aside / str(number))
      progress.warn(f"{error}; it is set aside in {aside}")
    if jax.process_count() > 1:
      agreement.wait_for_all()
    manager.reload()

  def _restore_item(self, step: int, name: str, args: Any) -> Any:
    composite = ocp.args.Composite(**{name: args})
    return self._steps.restore(step, args=composite)[name]


def _manager(
  directory: epath.Path,
  keep: int,
  read_only: bool,
  array_items: tuple[str, ...],
  sums_handler: sums.SumsHandler | None = None,
  prefix: str = "",
) -> ocp.CheckpointManager:
  handlers = {
    name: PoolHandler() if name == "pool" else ocp.StandardCheckpointHandler()
    for name in array_items
  }
  return ocp.CheckpointManager(
    directory,
    # Named here so that a fresh process can read metadata before restoring.
    item_handlers=handlers
    | {
      "meta": ocp.JsonCheckpointHandler(),
      # Last, so that all other files are whole by then.
      sums.NAME: sums_handler or sums.SumsHandler(),
    },
    options=ocp.CheckpointManagerOptions(
      max_to_keep=None if read_only else keep,
      create=not read_only,
      cleanup_tmp_directories=not read_only,
      # Another process may see a shared disk as it was before.
      single_host_load_and_broadcast=True,
      # Two managers in one process need different prefixes: with several
      # processes, one manager's barriers would else match the other's.
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        barrier_sync_key_prefix=prefix or directory.name
      ),
    ),
  )
