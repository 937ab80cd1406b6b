# SPDX-License-Identifier: Apache-2.0
"""Writes and reads TFDS datasets of trajectories without TensorFlow.

`write` makes a dataset of array_record files that any program can read:

  source = tfds.data_source(
    "expert_trajectories", split="train", data_dir="folder/given/to/write")
  source[0]["problem"]  # bytes

`read` returns the trajectories in the order in which they were written. An
absent text is stored as "". Only for observations does "" differ from an
absent text, so `has_observation` keeps the difference. Datasets of version
1.0.0 lack `is_target`, and all of their steps are targets.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from srl_jax import storage
from srl_jax.optional import needed_for
from srl_jax.trajectory import Step, Trajectory

with needed_for("TFDS datasets", "tensorflow-datasets array_record"):
  # What TFDS reads and writes the files with, and finds missing only then.
  import array_record  # noqa: F401
  import tensorflow_datasets as tfds

_TEXT = tfds.features.Text
_STEP_TEXTS = ("text", "title", "observation", "thought")


class ExpertTrajectories(tfds.core.GeneratorBasedBuilder):
  """Problems with the steps of an expert's solution."""

  VERSION = tfds.core.Version("1.1.0")
  # Nothing is downloaded. Without this line TFDS would look for checksums
  # beside this file, with a package (importlib_resources) that it does not
  # install.
  url_infos: Mapping[str, Any] = {}

  def __init__(
    self,
    splits: Mapping[str, Sequence[Trajectory]] | None = None,
    description: str = "",
    **kwargs: Any,
  ):
    """Keeps the splits to write; without splits only reading is possible.

    Args:
      splits: split name -> trajectories; no split may be empty.
      description: one line on what the trajectories were made from.
      **kwargs: arguments of TFDS, which passes data_dir and more when it reads.
    """
    self._splits = splits or {}
    self._description = description
    super().__init__(**{"file_format": "array_record", **kwargs})

  def _info(self) -> tfds.core.DatasetInfo:
    steps: dict[str, Any] = {field: _TEXT() for field in _STEP_TEXTS}
    for field in ("has_observation", "is_target"):
      steps[field] = tfds.features.Scalar(dtype=np.bool_)
    return tfds.core.DatasetInfo(
      builder=self,
      description=self._description,
      features=tfds.features.FeaturesDict(
        {
          "id": _TEXT(),
          "domain": _TEXT(),
          "problem": _TEXT(),
          "answer": _TEXT(),
          "steps": tfds.features.Sequence(steps),
          "metadata": tfds.features.Sequence(
            {"key": _TEXT(), "value": _TEXT()}
          ),
        }
      ),
      # The order of the input is the order of the training stream.
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    del dl_manager  # Nothing is downloaded.
    return {k: self._generate_examples(v) for k, v in self._splits.items()}

  def _generate_examples(self, trajectories) -> Iterator[tuple[int, dict]]:
    for index, trajectory in enumerate(trajectories):
      yield index, _to_example(trajectory)


def write(
  splits: Mapping[str, Sequence[Trajectory]],
  folder: str | pathlib.Path,
  description: str,
) -> pathlib.Path:
  """Writes a TFDS dataset and leaves out empty splits.

  Args:
    splits: split name -> trajectories.
    folder: the folder to write to, on this machine, as the library array_record
      writes to disks only; TFDS calls it `data_dir`.
    description: one line on what the dataset was made from.

  Returns:
    The subfolder that holds the files.

  Raises:
    ValueError: there is a dataset already.
  """
  builder = ExpertTrajectories(
    {name: split for name, split in splits.items() if split},
    description,
    data_dir=str(folder),
  )
  path = pathlib.Path(builder.data_path)
  if path.exists():
    raise ValueError(f"{path} exists already; remove it or write elsewhere")
  # TFDS always makes a folder for downloads; this keeps it away from the data.
  with tempfile.TemporaryDirectory() as downloads:
    builder.download_and_prepare(download_dir=downloads)
  return path


def read(folder: str | pathlib.Path) -> dict[str, list[Trajectory]]:
  """Reads every split of the TFDS dataset in or below a folder.

  Raises:
    ValueError: there is no dataset, more than one, or one of another kind.
  """
  root = storage.path(folder)
  found = [
    file.parent
    for file in storage.list_files(root)
    if file.name == "features.json"
    # What a command left that was killed.
    and not any(x.startswith(".") for x in file.relative_to(root).parts)
  ]
  if len(found) != 1:
    shown = "".join(f"\n  {path}" for path in sorted(found))
    raise ValueError(
      f"{folder} holds {len(found)} TFDS datasets, one is needed; give the"
      f" folder of the one you mean, or write one with srl_jax.data.prepare"
      f"{shown}"
    )
  builder = tfds.builder_from_directory(str(found[0]))
  missing = {"id", "domain", "problem", "answer", "steps", "metadata"} - set(
    builder.info.features
  )
  if missing:
    raise ValueError(
      f"{found[0]} holds no expert trajectories (it lacks"
      f" {', '.join(sorted(missing))}); write one with srl_jax.data.prepare"
    )
  return {
    split: [_from_example(e) for e in builder.as_data_source(split=split)]
    for split in builder.info.splits
  }


def _to_example(trajectory: Trajectory) -> dict[str, Any]:
  return {
    "id": trajectory.id,
    "domain": trajectory.domain,
    "problem": trajectory.problem,
    "answer": trajectory.answer or "",
    "steps": [
      {
        **{field: getattr(step, field) or "" for field in _STEP_TEXTS},
        "has_observation": step.observation is not None,
        "is_target": step.is_target,
      }
      for step in trajectory.steps
    ],
    "metadata": [
      {"key": key, "value": value} for key, value in trajectory.metadata.items()
    ],
  }


def _from_example(example: dict[str, Any]) -> Trajectory:
  texts = {k: example[k].decode() for k in ("id", "domain", "problem")}
  steps = example["steps"]
  steps = {"is_target": np.ones(len(steps["text"]), bool)} | steps
  names = (*_STEP_TEXTS, "has_observation", "is_target")
  columns = (steps[name] for name in names)
  pairs = zip(*(example["metadata"][k] for k in ("key", "value")), strict=True)
  return Trajectory(
    **texts,
    steps=tuple(
      Step(
        text.decode(),
        title=title.decode() or None,
        observation=observation.decode() if observed else None,
        thought=thought.decode() or None,
        is_target=bool(is_target),
      )
      for text, title, observation, thought, observed, is_target in zip(
        *columns, strict=True
      )
    ),
    answer=example["answer"].decode() or None,
    metadata={key.decode(): value.decode() for key, value in pairs},
  )
