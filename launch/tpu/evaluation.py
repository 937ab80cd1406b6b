# SPDX-License-Identifier: Apache-2.0
"""Builds the programs of a run's evaluation for TPUs without having any.

The data would say how wide the arrays are. Here prompts and contexts are taken
to be as long as the trunks of SRL may be, and trajectories to have _POINTS
steps. Of greedy and sampled decoding the one that takes more memory is planned.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from srl_jax.config import Config
from srl_jax.data.batching import Widths
from srl_jax.evaluate.solve import EvalConfig, rows_and_slots
from srl_jax.measuring import trunks_per_batch
from srl_jax.rollout.batches import fitting_rows
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.sharding import abstract
from srl_jax.train import memory
from srl_jax.train.data import StageData
from srl_jax.train.memory import DoesNotFitError, Program
from srl_jax.train.stage import Run

_POINTS = 16


def programs(
  config: Config, run: Run, params: Any, opt_state: Any
) -> Iterator[Program]:
  """Yields the programs that take the most memory while a run measures.

  Args:
    config: the run's config.
    run: the run, on described devices.
    params: the parameters, abstract.
    opt_state: what the optimizer keeps in memory meanwhile, abstract.

  Raises:
    ValueError: no limit says how long contexts are.
  """
  settings, width = config.evaluate, config.srl.trunks.max_trunk_tokens
  if not width:
    raise ValueError(
      "c.srl.trunks.max_trunk_tokens is 0, so the data decide how wide the "
      "programs of the evaluation are; set it, for example with "
      "--config.srl.trunks.max_trunk_tokens=2048"
    )
  beside = memory.bytes_per_device(opt_state)
  yield from _single_steps(config, run, params, width, beside)
  problems = settings.problems or config.data.test_size
  samples = [1, settings.samples]
  for mode in settings.modes:
    if mode == "turns":
      # Each sample has a row of its own.
      widths = (width, settings.max_turn_tokens)
      sizes = most_rows(settings, widths, problems * max(samples), [1])
    else:
      widths = (width, settings.max_solve_tokens)
      sizes = most_rows(settings, widths, problems, samples)
    has_turns = mode == "turns"
    yield from _stream(mode, run, params, widths, sizes, beside, has_turns)
  if settings.suites:
    protocol = settings.suite_protocol()
    widths = (width, protocol.max_new_tokens)
    counts = [decoding.samples for decoding in protocol.decodings]
    has_turns = protocol.mode == "turns"
    sizes = most_rows(settings, widths, 0, [1] if has_turns else counts)
    yield from _stream("suites", run, params, widths, sizes, beside, has_turns)


def most_rows(
  settings: EvalConfig,
  widths: tuple[int, int],
  prompts: int,
  samples: Sequence[int],
) -> tuple[int, int]:
  """The rows, and slots of each, of the decoding that takes more memory.

  Args:
    settings: say how many completions are decoded together.
    widths: of prompts and of answers.
    prompts: number of prompts; 0 if it is not known.
    samples: numbers of samples of a prompt; 0 for none.
  """
  together = settings.answers_per_batch
  found = [
    rows_and_slots(together, prompts or together, count)
    for count in samples
    if count
  ]
  trunk, answer = widths
  return max(found, key=lambda x: x[0] * trunk + x[0] * x[1] * answer)


_REMEDY = "lower c.evaluate.answers_per_batch or raise c.mesh.tensor"


def _single_steps(
  config: Config, run: Run, params: Any, width: int, beside: int
) -> Iterator[Program]:
  """The two halves of sampling a step at every branch point."""
  settings, mesh = config.evaluate, run.mesh
  widths = Widths(width, _POINTS, 16, 0)
  sampling = SamplingConfig(
    samples=1, max_new_tokens=settings.max_turn_tokens, temperature=1.0
  )
  sampler = run.sampler(sampling, "step")
  empty = StageData(widths, widths, 0).empty_batch().trunks
  rows = fitting_rows(sampler, trunks_per_batch(config.evaluate, widths))
  trunks = abstract.batch(empty, rows, mesh, run.rollout_rules)
  key = abstract.scalar(run.key("evaluate"), mesh)
  prefill = Program(
    "single steps: prefill",
    sampler.prefill,
    (params, trunks),
    mesh,
    _REMEDY,
    beside,
  )
  yield prefill
  with contextlib.suppress(DoesNotFitError):
    yield Program(
      "single steps: decode",
      sampler.decode,
      (prefill.outputs(), trunks, key),
      mesh,
      _REMEDY,
      beside + memory.bytes_per_device(params),
    )


def _stream(
  name: str,
  run: Run,
  params: Any,
  widths: tuple[int, int],
  sizes: tuple[int, int],
  beside: int,
  has_turns: bool,
) -> Iterator[Program]:
  """A stream of answers when it has grown to its limits.

  `widths` are of prompts and answers, `sizes` rows and slots of each. With
  turns, prompts go on from one another.
  """
  rows, slots = sizes
  key = run.key("evaluate")
  stream = run.stream(None, "solve", rows=rows, slots=slots, key=key)
  with jax.set_mesh(run.mesh):
    widest = stream.at_widest(*widths, goes_on=has_turns)
  with contextlib.suppress(DoesNotFitError):
    yield from memory.decoding_programs(
      widest,
      params=params,
      key=abstract.scalar(key, run.mesh),
      remedy=_REMEDY,
      beside_bytes=beside,
      name=name,
    )
