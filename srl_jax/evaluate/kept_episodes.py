# SPDX-License-Identifier: Apache-2.0
"""The episodes of an evaluation in a run, kept one by one as they end.

So an evaluation that was killed goes on. Whoever has written all of it removes
the folder.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from srl_jax import sharding
from srl_jax.rollout.episodes import Episode
from srl_jax.storage import files
from srl_jax.storage.mirror import Mirror

_FILE = "episodes.jsonl"


class KeptEpisodes:
  """Appends episodes to a folder; use as a context manager."""

  def __init__(self, folder: pathlib.Path, facts: Mapping[str, Any]):
    """Reads what an earlier attempt kept; all processes take part.

    Args:
      folder: the folder, of which the first process writes.
      facts: what the episodes depend on; JSON. Those of other facts are lost.
    """
    self._folder, self._file = folder, None
    kept: list[dict[str, Any]] = []
    if jax.process_index() == 0:
      lines = _read(folder / _FILE)
      facts = json.loads(json.dumps(facts))
      if lines and lines[0] == facts:
        kept = lines[1:]
      self._mirror = Mirror(folder)
      path = self._mirror.folder / _FILE
      files.write_text(path, "".join(map(_line, [facts, *kept])))
      self._file = path.open("a", encoding="utf-8")
    self._kept = sharding.gather_objects(kept)[0]

  def of(self, how: Mapping[str, Any]) -> list[Episode]:
    """Returns the episodes of an earlier attempt that were added as `how`."""
    return [
      Episode(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in x.items()}
      )
      for kept in self._kept
      if kept["how"] == how
      for x in [kept["episode"]]
    ]

  def add(self, how: Mapping[str, Any], episode: Episode) -> None:
    """Keeps an episode; one without a verdict is sampled again."""
    if self._file and episode.is_correct is not None:
      fields = {
        x.name: getattr(episode, x.name)
        for x in dataclasses.fields(episode)
        if x.compare
      }
      self._file.write(_line({"how": how, "episode": fields}))
      self._file.flush()

  def close(self) -> None:
    if self._file:
      self._file.close()
      self._mirror.close()
      self._file = None

  def __enter__(self) -> KeptEpisodes:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def _read(path: pathlib.Path) -> list[Any]:
  """The lines of a file up to the first that a crash has cut."""
  found: list[Any] = []
  try:
    for line in path.read_text(encoding="utf-8").splitlines():
      found.append(json.loads(line))
  except (ValueError, FileNotFoundError):
    pass
  return found


def _line(record: Mapping[str, Any]) -> str:
  return json.dumps(record) + "\n"
