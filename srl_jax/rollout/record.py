# SPDX-License-Identifier: Apache-2.0
"""Keeps a sample of training's rollouts in files, for people to look at.

A file holds a few trajectories of one moment, with all branches of all their
branch points, or all turns of their episodes: a row per sample (see `SCHEMA`).
Process 0 writes it, from rows that it has anyway. Nothing here touches a device
or a random number, and what is kept depends on the update step and on the ids
of trajectories only.
`srl_jax.report` shows the files.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import zlib
from collections.abc import Collection, Iterable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from srl_jax import storage, strict
from srl_jax.data.batching import TrunkBatch
from srl_jax.optional import needed_for
from srl_jax.rewards import FAILURES
from srl_jax.rollout.episodes import Episode
from srl_jax.rollout.scoring import completion_texts
from srl_jax.storage import files
from srl_jax.tokenizers import Tokenizer
from srl_jax.trajectory import Trajectory
from srl_jax.types import Branches, Scores

Split = Literal["train", "valid"]
_NAME = re.compile(r"(\w+)\.(\d+)\.(train|valid)\.parquet")

# The columns of a file and their Arrow types.
SCHEMA = {
  "stage": "string",
  "split": "string",  # "train" or "valid"
  "update_step": "int32",  # of the stage, as in the names of its metrics
  "trajectory": "string",  # its id
  "problem": "string",
  "steps": "list<struct<title: string, text: string>>",  # the expert's
  "step": "int32",  # index of the step to predict, from 0
  "target": "string",  # what the reward compares with
  "sample": "int32",  # index in the group, from 0
  "text": "string",  # what the model wrote, without its stop token
  "tokens": "int32",  # length of that, stop token included
  "is_stopped": "bool",
  "reward": "float32",
  "value": "float32",  # of the reward function; null if the format is broken
  "failure": "string",  # one of rewards.FAILURES
  "is_kept": "bool",  # by dynamic sampling; null in validation
}


@dataclasses.dataclass(frozen=True)
class RolloutsConfig:
  """Which rollouts of RL stages are kept, for people to look at.

  Attributes:
    every_update_steps: update steps between kept samples of training; those of
      validations are kept whenever there is one. 0 keeps nothing.
    trajectories: number of trajectories in each file, with all their branches.
    max_files: most files of a stage's training, and most of its validations.
      If more are due, as many are kept at equal distances.
  """

  every_update_steps: int = 5
  trajectories: int = 8
  max_files: int = 100

  def __post_init__(self):
    strict.check_numbers(
      self, every_update_steps="[0, )", trajectories="[1, )", max_files="[1, )"
    )


class File(NamedTuple):
  """A file of rollouts, as its name tells; in order of time within a stage."""

  stage: str
  update_step: int
  split: Split
  path: pathlib.Path


class Recorder:
  """Writes the rollouts of a run into files of a folder."""

  def __init__(self, folder: pathlib.Path, config: RolloutsConfig):
    """Writes nothing yet.

    Raises:
      ValueError: pyarrow is missing.
    """
    self._folder, self.config = folder, config
    if config.every_update_steps:
      with needed_for("Files of rollouts", "pyarrow"):
        import pyarrow.parquet  # noqa: F401

  def is_due_in_training(self, update_step: int, total: int) -> bool:
    """Whether this process is to keep what training samples now.

    Args:
      update_step: the stage's update step, from 0.
      total: all update steps of the stage.
    """
    every = self.config.every_update_steps
    if not every or update_step % every:
      return False
    return self._is_chosen(update_step // every, -(-total // every))

  def is_due_in_validation(
    self, update_step: int, total: int, validate_every: int
  ) -> bool:
    """Whether this process is to keep what a validation samples.

    Args:
      update_step: the update step after which it validates, from 0.
      total: all update steps of the stage.
      validate_every: update steps between validations; 0 for one at the end.
    """
    if not self.config.every_update_steps:
      return False
    every = validate_every or total
    return self._is_chosen(update_step // every, -(-total // every))

  def _is_chosen(self, index: int, count: int) -> bool:
    """Chooses `max_files` of `count` moments, the last one among them."""
    most = self.config.max_files
    is_chosen = (index + 1) * most // count > index * most // count
    return is_chosen and jax.process_index() == 0

  def write(
    self, stage: str, split: Split, update_step: int, rows: Iterable[dict]
  ) -> None:
    """Writes the rows of one moment, whole or not at all.

    Args:
      stage: name of the stage.
      split: what the trajectories are for.
      update_step: of the stage, from 0.
      rows: what `rows_of` returned.
    """
    import pyarrow as pa
    import pyarrow.parquet

    moment = {"stage": stage, "split": split, "update_step": update_step}
    table = pa.Table.from_pylist([moment | x for x in rows], _arrow_schema(pa))
    buffer = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    files.write_bytes(
      self._folder / f"{stage}.{update_step:08d}.{split}.parquet",
      buffer.getvalue().to_pybytes(),
    )

  def drop_from(self, stage: str, first_step: int) -> None:
    """Deletes what a resumed stage will write again (process 0)."""
    if jax.process_index() == 0:
      for file in list_files(self._folder):
        if file.stage == stage and file.update_step >= first_step:
          file.path.unlink()


def _arrow_schema(pa: Any) -> Any:
  step = pa.struct([("title", pa.string()), ("text", pa.string())])
  return pa.schema(
    [
      (name, pa.list_(step) if name == "steps" else pa.type_for_alias(kind))
      for name, kind in SCHEMA.items()
    ]
  )


def list_files(folder: pathlib.Path) -> list[File]:
  """Returns the files of rollouts in a folder, sorted; [] if there are none."""
  found = []
  for path in folder.glob("*.parquet"):
    if named := _NAME.fullmatch(path.name):
      stage, update_step, split = named.groups()
      found.append(File(stage, int(update_step), split, path))
  return sorted(found)


def read_file(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the rows of a file, with the columns of `SCHEMA`.

  Raises:
    ValueError: it is no file of rollouts.
  """
  with needed_for("Files of rollouts", "pyarrow"):
    import pyarrow as pa
    import pyarrow.parquet
  try:
    with storage.open_to_read(path) as file:
      table = pyarrow.parquet.read_table(file)
    return table.select(list(SCHEMA)).to_pylist()
  except (pa.ArrowException, KeyError) as error:
    raise ValueError(
      f"{path} is no file of rollouts ({error}); remove it"
    ) from error


def recurring_ids(trajectories: Iterable[Trajectory], count: int) -> set[str]:
  """Chooses trajectories of a batch: those whose ids have the lowest hashes.

  So a trajectory that was chosen once is mostly chosen again when it recurs.
  """
  ids = {trajectory.id for trajectory in trajectories}
  return set(sorted(ids, key=lambda x: (zlib.crc32(_utf8(x)), x))[:count])


def first_ids(trajectories: Iterable[Trajectory], count: int) -> set[str]:
  """Chooses the first trajectories, the same at every moment."""
  ids = dict.fromkeys(trajectory.id for trajectory in trajectories)
  return set(list(ids)[:count])


def rows_of(
  batch: TrunkBatch,
  branches: Branches,
  scores: Scores,
  ids: Collection[str],
  tokenizer: Tokenizer,
  is_kept_NK: np.ndarray | None = None,
) -> list[dict[str, Any]]:
  """Returns a row per sample of the chosen trajectories.

  Args:
    batch: N trunks.
    branches: their branches on the host, [N, R, ...].
    scores: of all branches, [N, K, G].
    ids: the chosen trajectories.
    tokenizer: decodes the completions.
    is_kept_NK: which groups the filter keeps; None if none is filtered.

  Returns:
    Rows with the columns of `SCHEMA` that do not name the moment.
  """
  chosen = [n for n, t in enumerate(batch.sources) if t.trajectory.id in ids]
  branches = Branches(*(np.asarray(x)[chosen] for x in branches))
  texts = completion_texts(branches, tokenizer)
  tokens_NR = branches.is_completion_NRC.sum(-1)
  samples = scores.reward_NKG.shape[-1]
  rows = []
  for i, n in enumerate(chosen):
    trunk = batch.sources[n]
    of_trajectory = _trajectory_columns(trunk.trajectory)
    for k, point in enumerate(trunk.points):
      for g in range(samples):
        r = k * samples + g
        rows.append(
          of_trajectory
          | {
            "step": point.step,
            "target": _valid(point.target),
            "sample": g,
            "text": _valid(texts[i][r].text),
            "tokens": int(tokens_NR[i, r]),
            "is_stopped": texts[i][r].stopped,
            "is_kept": None if is_kept_NK is None else bool(is_kept_NK[n, k]),
          }
          | _score_columns(scores, (n, k, g))
        )
  return rows


def rows_of_episodes(
  trajectory: Trajectory, episodes: Iterable[Episode], is_kept: bool | None
) -> list[dict[str, Any]]:
  """Returns a row per turn of the episodes of a trajectory.

  Args:
    trajectory: the problem.
    episodes: what the model did at it.
    is_kept: whether the filter keeps the problem; None if none is filtered.

  Returns:
    Rows as `rows_of` returns them. A turn counts as a step, its target is the
    expert's step of that number, and its reward is that of its episode. If that
    has no verdict, the reward is 0 and there is no value.
  """
  steps = [step.text for step in trajectory.steps]
  return [
    _trajectory_columns(trajectory)
    | {
      "step": turn,
      "target": _valid(steps[turn]) if turn < len(steps) else "",
      "sample": episode.sample,
      "text": _valid(text),
      "tokens": len(drawn.tokens),
      "is_stopped": drawn.is_stopped,
      "is_kept": is_kept,
      "reward": float(episode.is_correct or 0),
      "value": (
        None if episode.is_correct is None else float(episode.is_correct)
      ),
      "failure": "",
    }
    for episode in episodes
    for turn, (text, drawn) in enumerate(
      zip(episode.texts, episode.drawn, strict=True)
    )
  ]


def _trajectory_columns(trajectory: Trajectory) -> dict[str, Any]:
  return {
    "trajectory": _valid(trajectory.id),
    "problem": _valid(trajectory.problem),
    "steps": [
      {"title": _valid(step.title or ""), "text": _valid(step.text)}
      for step in trajectory.steps
    ],
  }


def _score_columns(scores: Scores, place: tuple[int, ...]) -> dict[str, Any]:
  value = float(scores.value_NKG[place])
  return {
    "reward": float(scores.reward_NKG[place]),
    "value": None if np.isnan(value) else value,
    "failure": FAILURES[scores.failure_NKG[place]],
  }


def _utf8(text: str) -> bytes:
  # JSON may spell half of a surrogate pair, which no file can hold.
  return text.encode("utf-8", "replace")


def _valid(text: str) -> str:
  return _utf8(text).decode("utf-8")
