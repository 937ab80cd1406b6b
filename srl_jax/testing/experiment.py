# SPDX-License-Identifier: Apache-2.0
"""A whole experiment that takes seconds, and what tests read from its runs.

The expert copies the digits of the problem, one per step. A model of a few
thousand parameters learns the format in a few update steps of SFT and then
guesses digits, so that the rewards of about half the groups differ.

  srl_jax train --config=srl_jax/testing/experiment.py:srl,data.path=F
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.experimental.compilation_cache.compilation_cache
import ml_collections
import numpy as np

from srl_jax import config as config_lib
from srl_jax import sharding
from srl_jax.checkpoint import Checkpointer
from srl_jax.processes import stopping
from srl_jax.run import train_and_evaluate
from srl_jax.testing import compilation, tiny
from srl_jax.train import rl_setup, sft, stage
from srl_jax.train.episodes import EpisodesStage
from srl_jax.train.rl import RlStage
from srl_jax.train.sft import SftStage
from srl_jax.update import optim

PRESETS = {
  "sft": ("sft",),
  "srl": ("srl",),
  "rlvr": ("rlvr",),
  "episodes": ("episodes",),
  "sft_srl": ("sft", "srl"),
}
# Metrics that depend on the process: a new process compiles again.
_OF_THE_PROCESS = ("_s", "tokens_per_s", "programs")


def write_data(path: str | os.PathLike, count: int = 64) -> str:
  """Writes `count` trajectories of one to three steps; returns the path."""
  draws = random.Random(0)
  lines = []
  for index in range(count):
    digits = [draws.choice("123") for _ in range(1 + index % 3)]
    steps = [{"text": digit, "thought": "."} for digit in digits]
    steps[-1]["text"] = f"#### {digits[-1]}"
    record = {
      "id": f"copy-{index}",
      "problem": f"{index}: {' '.join(digits)}",
      "steps": steps,
      "answer": digits[-1],
    }
    lines.append(json.dumps(record) + "\n")
  pathlib.Path(path).write_text("".join(lines))
  return str(path)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config; set data.path to the file that `write_data` wrote."""
  preset, overrides = config_lib.parse_argument(
    argument, default="sft_srl", presets=PRESETS
  )
  c = config_lib.default_config()
  c.name = f"tiny:{preset}"
  c.stages = PRESETS[preset]
  c.data.format = "jsonl"
  c.data.valid_size = 8
  c.data.test_size = 8
  c.tokenizer.kind = "sentencepiece"
  c.tokenizer.train_vocab_size = 300
  c.model.d_model = 16
  c.model.n_layers = 1
  c.model.n_heads = 2
  c.model.n_kv_heads = 1
  c.model.head_width = 8
  c.model.d_mlp = 32
  c.evaluate.modes = ("turns",)
  c.evaluate.max_turns = 2
  c.evaluate.max_turn_tokens = 8
  c.evaluate.answers_per_batch = 8
  c.checkpoint.every_update_steps = 2
  c.checkpoint.keep = 100
  c.sft.update_steps = 16
  c.sft.trunks_per_batch = 16
  c.sft.trunks_per_micro_batch = 8
  c.sft.validate_every = 8
  c.sft.alternate_solve = True
  c.sft.optim.learning_rate = 0.03
  for stage_rl in (c.srl, c.rlvr, c.episodes):
    stage_rl.update_steps = 6
    stage_rl.validate_every = 1
    stage_rl.groups_per_batch = 12
    stage_rl.trunks_per_micro_batch = 4
    stage_rl.optim.learning_rate = 0.01
  for draws in (c.srl.sampling, c.rlvr.sampling, c.episodes):
    draws.samples = 4
    draws.max_new_tokens = 8
  c.srl.sampling.trunks_per_round = c.rlvr.sampling.trunks_per_round = 8
  c.episodes.update_steps = c.episodes.turns = c.episodes.max_rounds = 3
  c.episodes.groups_per_batch = 4
  c.episodes.problems_per_round = 8
  c.srl.passes = 2
  c.srl.loss.kl_coefficient = 0.05
  config_lib.override(c, overrides)
  return c


def half(action: str, target: str) -> float:
  """A reward that is the same for all actions."""
  del action, target
  return 0.5


def uneven(action: str, target: str) -> float:
  """A reward that two processes do not agree on, as of a service."""
  del action, target
  return -2.0 if "--process_id=1" in sys.argv else 0.5


@dataclasses.dataclass
class RunOutcome:
  """Results of a run, or of several attempts at one.

  Attributes:
    workdir: folder of the run.
    results: what `run` returned.
    saved: (stage, update step) -> (state, pool, meta), as given to the
      checkpointer.
    compiled: stage -> number of programs compiled before each update step.
  """

  workdir: pathlib.Path
  results: dict[str, Any] = dataclasses.field(default_factory=dict)
  saved: dict[tuple[str, int], Any] = dataclasses.field(default_factory=dict)
  compiled: dict[str, list[int]] = dataclasses.field(default_factory=dict)

  def rows(self) -> list[dict[str, float]]:
    """Returns the metrics of the run; see `metric_rows`."""
    return metric_rows(self.workdir)

  def rollouts(self) -> dict[str, bytes]:
    """Returns the files of rollouts, by name."""
    files = (self.workdir / "rollouts").iterdir()
    return {path.name: path.read_bytes() for path in files}


# (stage, update step) -> called before that update step makes its batch.
Events = Mapping[tuple[str, int], Callable[[], None]]


class Runs:
  """Makes runs of the experiment in this process, on one device."""

  def __init__(self, folder: pathlib.Path):
    """Writes the data to a folder."""
    self.folder = folder
    self.data = write_data(folder / "data.jsonl")
    self._programs: dict[Any, Any] = {}

  def config(self, preset: str, **changes: Any) -> config_lib.Config:
    """Returns the strict config; "__" in `changes` is the dot of a path."""
    c = get_config(preset)
    c.data.path = self.data
    for path, value in changes.items():
      *parents, last = path.split("__")
      node = c
      for parent in parents:
        node = node[parent]
      node[last] = value
    return config_lib.to_config(c)

  def run(
    self,
    workdir: pathlib.Path,
    preset: str,
    *,
    events: Events | None = None,
    outcome: RunOutcome | None = None,
    **changes: Any,
  ) -> RunOutcome:
    """Runs to the end, or until something raises.

    Args:
      workdir: folder of the run.
      preset: a name in PRESETS.
      events: functions that make something go wrong at an update step.
      outcome: gets the results; needed for attempts that do not return.
      **changes: see `config`.
    """
    outcome = outcome or RunOutcome(workdir)
    config = self.config(preset, **changes)
    with self.quickly(), _watched(outcome, events or {}):
      outcome.results = train_and_evaluate(config, workdir)
    return outcome

  def command(self, workdir: pathlib.Path, preset: str) -> list[str]:
    """Returns the command line of a run in a process of its own."""
    config = f"--config={__file__}:{preset},data.path={self.data}"
    command = [sys.executable, "-m", "srl_jax.main", config]
    return [*command, f"--workdir={workdir}"]

  def environment(self) -> dict[str, str]:
    """Returns the environment for `command`: one device, a shared cache."""
    return os.environ | {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "",
      "PYTHONUNBUFFERED": "1",
      "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled_by_command"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

  @contextlib.contextmanager
  def quickly(self) -> Iterator[None]:
    """Uses one device, compiles quickly, and compiles everything once."""
    one_device = mock.patch.object(
      sharding, "make_mesh", lambda _: tiny.small_mesh()
    )
    with (
      one_device,
      compilation.quick_compilation(),
      _compiled_in(self.folder / "compiled"),
      _made_once(self._programs),
    ):
      yield

  def forget(self) -> None:
    """Makes the next run trace its programs again, as in a new process."""
    self._programs.clear()


@contextlib.contextmanager
def _compiled_in(folder: pathlib.Path) -> Iterator[None]:
  """Lets runs of this process share compiled programs through a folder."""
  settings = {
    "jax_compilation_cache_dir": str(folder),
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
  }
  former = {name: getattr(jax.config, name) for name in settings}
  try:
    for name, value in settings.items():
      jax.config.update(name, value)
    yield
  finally:
    for name, value in former.items():
      jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


# The makers of jitted functions and of their parts, for `_made_once`.
_MAKERS = (
  (stage, "Sampler"),
  (rl_setup, "grpo_loss"),
  (sft, "sft_loss"),
  (optim, "make_optimizer"),
  (optim, "learning_rate"),
  (rl_setup, "Updater"),
  (sft, "Updater"),
)


@contextlib.contextmanager
def _made_once(made: dict[Any, Any]) -> Iterator[None]:
  """Lets runs of this process use the programs of earlier runs.

  A compiled program from a folder must still be traced and lowered, which
  takes most of the time of a tiny run.
  """

  def kept(make):
    def call(*args, **kwargs):
      leaves, tree = jax.tree.flatten((args, kwargs))
      key = (make, tree, *map(_identity, leaves))
      try:
        is_new = key not in made
      except TypeError:  # Inside a program, of values that have no hash.
        return make(*args, **kwargs)
      if is_new:
        made[key] = make(*args, **kwargs)
      return made[key]

    return call

  with contextlib.ExitStack() as stack:
    for module, name in _MAKERS:
      once = kept(getattr(module, name))
      stack.enter_context(mock.patch.object(module, name, once))
    yield


def _identity(leaf: Any) -> Any:
  """Returns what a program depends on: not the values of an array."""
  if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
    return leaf.shape, leaf.dtype, leaf.sharding
  return leaf


def terminate() -> None:
  """Asks this process to stop, as an event; returns when it was heard.

  If another test began to listen, a thread hears it, at a time of its own.
  """
  os.kill(os.getpid(), signal.SIGTERM)
  while stopping._State.is_listening and not stopping._State.asked:
    time.sleep(0.001)


@contextlib.contextmanager
def _watched(outcome: RunOutcome, events: Events) -> Iterator[None]:
  first = compilation.counts().programs
  save = Checkpointer.save

  def noting_save(self, step, state, pool, meta):
    stage = self._directory.name.partition("_")[2]
    copies = jax.tree.map(np.array, jax.device_get((state, pool)))
    outcome.saved[stage, step] = (*copies, meta)
    save(self, step, state, pool, meta)

  def noting(take_update):
    def call(self, state, update_step, reference):
      count = compilation.counts().programs - first
      outcome.compiled.setdefault(self.name, []).append(count)
      events.get((self.name, update_step), lambda: None)()
      return take_update(self, state, update_step, reference)

    return call

  with contextlib.ExitStack() as stack:
    patch = mock.patch.object
    stack.enter_context(patch(Checkpointer, "save", noting_save))
    for kind in (SftStage, RlStage, EpisodesStage):
      take_update = noting(kind.take_update)
      stack.enter_context(patch(kind, "take_update", take_update))
    yield


def metric_rows(workdir: pathlib.Path) -> list[dict[str, float]]:
  """Returns the rows of metrics.jsonl without metrics of the process."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [
    {k: v for k, v in json.loads(x).items() if not k.endswith(_OF_THE_PROCESS)}
    for x in lines
  ]
