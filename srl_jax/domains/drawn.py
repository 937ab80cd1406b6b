# SPDX-License-Identifier: Apache-2.0
"""Trajectories that a domain draws at random, split by split (Domain.draw)."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping

from srl_jax.domains.domain import Domain
from srl_jax.domains.randomness import Draws
from srl_jax.domains.splits import split_of
from srl_jax.trajectory import Trajectory

# So many draws in a row without a problem of the split are a mistake.
_MOST_DRAWS = 10_000


def draw_splits(
  domain: Domain, sizes: Mapping[str, int], seed: int
) -> dict[str, list[Trajectory]]:
  """Returns trajectories of a domain that has a function `draw`.

  A hash of problem and metadata decides the only split in which a problem may
  appear. Everything follows from (domain, split, seed, index). If the domain
  has an environment, it fills in what it answers to the expert's actions.

  Args:
    domain: the domain.
    sizes: trajectories per split; a smaller number gives the first of them.
    seed: another seed gives other problems.

  Raises:
    ValueError: the domain draws no problems of a split, or the environment
      says that an expert does not solve a problem.
  """
  return {
    split: list(itertools.islice(_of_split(domain, split, seed), count))
    for split, count in sizes.items()
  }


def _of_split(domain: Domain, split: str, seed: int) -> Iterator[Trajectory]:
  found = -1
  for index in itertools.count():
    name = f"{domain.name}-{split}-{seed}-{index}"
    drawn = domain.draw(Draws(name), name)
    if drawn and split_of(drawn.problem + _metadata(drawn)) == split:
      yield played(domain, drawn) if domain.environment else drawn
      found = index
    elif index - found >= _MOST_DRAWS:
      raise ValueError(
        f"the domain {domain.name!r} drew no problem for the split {split!r} "
        f"in {_MOST_DRAWS:,} draws; its function draw() must draw more than a "
        "few different ones, and return None only now and then"
      )


def _metadata(trajectory: Trajectory) -> str:
  return json.dumps(dict(trajectory.metadata), sort_keys=True)


def played(domain: Domain, trajectory: Trajectory) -> Trajectory:
  """Returns a trajectory with what the environment answers to its actions.

  Raises:
    ValueError: the problem is not solved at the end.
  """
  environment = domain.environment()
  with contextlib.closing(environment):
    environment.reset(trajectory)
    steps = tuple(
      dataclasses.replace(step, observation=environment.step(step.text)[0])
      for step in trajectory.steps
    )
    if not environment.solved():
      told = "\n".join(f"  {x.text!r} -> {x.observation!r}" for x in steps)
      raise ValueError(
        f"the expert does not solve {trajectory.id!r}, says the environment of "
        f"the domain {domain.name!r}:\n{told}"
      )
  return dataclasses.replace(trajectory, steps=steps)
