# SPDX-License-Identifier: Apache-2.0
"""What the viewer of episodes shows, as plain values for assets/episodes.js.

An episode is what an agent did at a problem, turn by turn: its thought, its
action, what the environment answered. Episodes come from the solutions of runs,
and from files of trajectories, whoever recorded them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from srl_jax import held_out, storage
from srl_jax.data import agents, folders, schema
from srl_jax.data.records import Reject, read_file
from srl_jax.data.templates import titled_action
from srl_jax.report.runs import RunFiles
from srl_jax.report.viewer import matching, some_of_each
from srl_jax.rewards import difflib_ratio, format
from srl_jax.trajectory import Trajectory


class Turn(NamedTuple):
  """A turn of an episode; `observation` is None if nothing was answered."""

  thought: str
  action: str
  observation: str | None


class Episode(NamedTuple):
  """An episode to be shown.

  Attributes:
    source: label of the run, or path of the file.
    moment: when, and how it was decoded; "" for a file.
    problem: id of the problem.
    text: the problem; "" if unknown.
    turns: what was done.
    outcome: whether the problem is solved; None if unknown.
    ending: why it ended; "" if unknown.
    expert: the expert's actions; () if unknown.
  """

  source: str
  moment: str
  problem: str
  text: str
  turns: tuple[Turn, ...]
  outcome: bool | None
  ending: str = ""
  expert: tuple[str, ...] = ()


class Episodes(NamedTuple):
  """Episodes of a page.

  Attributes:
    payload: the episodes that the page shows, ready for JSON.
    total: how many there are.
    rejects: records of files that could not be read.
  """

  payload: list[list[Any]]
  total: int
  rejects: tuple[Reject, ...]


def read_episodes(
  runs: Sequence[RunFiles],
  paths: Sequence[str],
  most: int,
  index_of: Callable[[str], int],
) -> Episodes:
  """Reads the episodes of runs and of files.

  Args:
    runs: the runs.
    paths: files or folders of trajectories.
    most: number of episodes in the page, about; every moment and every path
      gives the same number, of the same problems.
    index_of: puts a text into the page's table and returns its index.

  Raises:
    ValueError: a path holds nothing that can be read.
  """
  sources = [source for run in runs for source in _of_run(run)]
  rejects: list[Reject] = []
  for path in paths:
    read, refused = _of_path(path)
    sources.append(read)
    rejects += refused
  share = most / max(1, len(sources))
  chosen = [
    episode
    for source in sources
    for episode in some_of_each(source, share, lambda x: x.problem)
  ]
  return Episodes(
    [_row(episode, index_of) for episode in chosen],
    sum(map(len, sources)),
    tuple(rejects),
  )


def _of_run(run: RunFiles) -> Iterator[list[Episode]]:
  """The episodes of each moment and decoding."""
  experts = {x.id: x for x in held_out.read(run.workdir).get("test", ())}
  # As measured, and not as the files are called.
  moments = dict.fromkeys([*run.results, *run.solutions])
  for moment in moments:
    found: dict[str, list[Episode]] = {}
    for row in run.solutions.get(moment, ()):
      if row["mode"] == "turns":
        decoding = f"sampled at {row['temperature']:g}"
        how = f"{moment}, {decoding if row['temperature'] else 'greedy'}"
        of_how = found.setdefault(how, [])
        of_how.append(_of_solution(run.label, how, row, experts))
    yield from found.values()


def _of_solution(
  source: str,
  moment: str,
  row: Mapping[str, Any],
  experts: Mapping[str, Trajectory],
) -> Episode:
  seen = row.get("observations", ())
  turns = []
  for number, text in enumerate(row["texts"]):
    thought, action, *_ = format.split_lenient(text)
    observation = seen[number] if number < len(seen) else None
    turns.append(Turn(thought, action, observation))
  expert = experts.get(row["problem"])
  steps = enumerate(expert.steps, 1) if expert else ()
  return Episode(
    source=source,
    moment=moment,
    problem=row["problem"],
    text=expert.problem if expert else "",
    turns=tuple(turns),
    outcome=row["is_correct"],
    ending=row["ending"],
    expert=tuple(titled_action(step, number) for number, step in steps),
  )


def _of_path(name: str) -> tuple[list[Episode], list[Reject]]:
  path = storage.path(name)
  if not path.exists():
    raise ValueError(
      f"there are no trajectories in {path}; give a file or folder of them"
    )
  parts = [folders.Part(path, "", path.stem)]
  if path.is_dir():
    parts = folders.single_files_of(path)[0] or folders.parts_of(path)[0]
  episodes, rejects, place_of = [], [], {}
  for part in parts:
    read, refused = read_file(
      part.path, _parse, prefix=part.prefix, place_of=place_of
    )
    rejects += refused
    episodes += [_of_trajectory(name, trajectory) for trajectory in read]
  if not episodes:
    why = f"; the first: {rejects[0]}" if rejects else ""
    raise ValueError(f"no trajectory of {path} can be read{why}")
  return episodes, rejects


def _parse(record: Any, default_id: str) -> Trajectory:
  """Reads a record of an agent, or one in the form of data/schema.py."""
  if isinstance(record, dict) and {"problem", "steps"} <= record.keys():
    return schema.from_json(record, default_id)
  return agents.parse(record, default_id)


def _of_trajectory(source: str, trajectory: Trajectory) -> Episode:
  resolved = trajectory.metadata.get("resolved")
  return Episode(
    source=source,
    moment="",
    problem=trajectory.id,
    text=trajectory.problem,
    turns=tuple(
      Turn(step.thought or "", titled_action(step, number), step.observation)
      for number, step in enumerate(trajectory.steps, 1)
    ),
    outcome=None if resolved is None else resolved == "true",
    ending=trajectory.metadata.get("cut_off", ""),
  )


def _row(episode: Episode, index_of: Callable[[str], int]) -> list[Any]:
  turns = []
  for number, turn in enumerate(episode.turns):
    expert = episode.expert[number : number + 1]
    compared = [None, None, ()]
    for target in (x.strip(format.WHITESPACE) for x in expert):
      reward = difflib_ratio(turn.action, target)
      compared = [reward, index_of(target), matching(turn.action, target)]
    seen = turn.observation
    turns.append(
      [
        index_of(turn.thought),
        index_of(turn.action),
        None if seen is None else index_of(seen),
        *compared,
      ]
    )
  return [
    episode.source,
    episode.moment,
    episode.problem,
    index_of(episode.text),
    turns,
    episode.outcome,
    episode.ending,
  ]
