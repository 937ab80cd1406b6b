# SPDX-License-Identifier: Apache-2.0
"""Writes answers as logs of Inspect, which `inspect view` shows.

There is a log for each decoding, since Inspect has one configuration in a log.
Samples of a problem are its epochs. An answer that was given turn by turn has a
message for each turn and for each observation. Nothing here runs Inspect.
"""

from __future__ import annotations

import datetime
import itertools
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from srl_jax import storage
from srl_jax.evaluate.compare import Result
from srl_jax.evaluate.records import Answer
from srl_jax.evaluate.summary import by_problem, summary
from srl_jax.evaluate.thoughts import think_blocks
from srl_jax.optional import needed_for

_SCORER = "srl_jax"


def check_installed() -> None:
  """Raises ValueError if inspect-ai is missing."""
  with needed_for("Logs of Inspect", "inspect-ai"):
    import inspect_ai  # noqa: F401


def write_inspect_logs(
  result: Result, folder: str | pathlib.Path
) -> list[pathlib.Path]:
  """Writes a log for each decoding of a result and returns their paths.

  The files are FOLDER/SUITE_DECODING.eval. They hold the protocol (as metadata
  of the evaluation), the problems, the answers with their thoughts set apart,
  what an environment answered, the verdicts, and the metrics of summary.py.

  Args:
    result: the answers of one checkpoint to one suite.
    folder: a folder; it is made if it is missing.

  Raises:
    ValueError: inspect-ai is not installed, or answers are missing.
  """
  check_installed()
  from inspect_ai import log

  folder = storage.path(folder)
  if not storage.is_remote(folder):
    folder.mkdir(parents=True, exist_ok=True)
  paths = []
  for decoding in ("greedy", "sampled"):
    rows = by_problem(result.problems, result.answers, decoding)
    if rows:
      path = folder / f"{result.suite}_{decoding}.eval"
      with storage.written(path) as file:
        log.write_eval_log(_log(result, decoding, rows), str(file))
      paths.append(path)
  return paths


def _log(
  result: Result, decoding: str, rows: Sequence[Sequence[Answer]]
) -> Any:
  from inspect_ai import log

  answers = [answer for row in rows for answer in row]
  metrics = {
    name: log.EvalMetric(
      name=name,
      value=estimate.value,
      params={"low": estimate.low, "high": estimate.high},
    )
    for name, estimate in summary(result.problems, answers).items()
    if math.isfinite(estimate.value)
  }
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
  spec = log.EvalSpec(
    created=now,
    task=f"{result.suite}_{decoding}",
    model=result.name,
    dataset=log.EvalDataset(
      name=result.suite,
      samples=len(rows),
      sample_ids=[problem.id for problem in result.problems],
    ),
    config=log.EvalConfig(epochs=len(rows[0])),
    metadata={"decoding": decoding, **result.protocol},
  )
  return log.EvalLog(
    status="success",
    eval=spec,
    results=log.EvalResults(
      total_samples=len(answers),
      completed_samples=len(answers),
      scores=[log.EvalScore(name=_SCORER, scorer=_SCORER, metrics=metrics)],
    ),
    stats=log.EvalStats(started_at=now, completed_at=now),
    samples=[
      _sample(result.name, problem, answer)
      for problem, row in zip(result.problems, rows, strict=True)
      for answer in row
    ],
  )


def _sample(model: str, problem, answer: Answer) -> Any:
  from inspect_ai import log, scorer
  from inspect_ai import model as models

  stop_reason = "stop" if answer.is_stopped else "max_tokens"
  turns = answer.turns or (answer.text,)
  messages: list[Any] = [models.ChatMessageUser(content=problem.text)]
  for turn, seen in itertools.zip_longest(turns, answer.observations):
    content = list(_content(turn))
    output = models.ModelOutput.from_content(
      model, content, stop_reason=stop_reason
    )
    messages.append(output.choices[0].message)
    if seen is not None:
      # A tool's message would have to answer a call, and there is none.
      messages.append(models.ChatMessageUser(content=seen))
  return log.EvalSample(
    id=problem.id,
    epoch=answer.sample + 1,
    input=problem.text,
    target=problem.answer,
    messages=messages,
    output=output,
    scores={
      _SCORER: scorer.Score(
        value=scorer.CORRECT if answer.is_correct else scorer.INCORRECT,
        answer=answer.final,
      )
    },
    metadata={
      "level": problem.level,
      "subject": problem.subject,
      "tokens": answer.tokens,
    },
  )


def _content(text: str) -> Iterator[Any]:
  """Yields what a text says and what it thinks, in order."""
  from inspect_ai import model as models

  at = 0
  for block in think_blocks(text):
    if text[at : block.start].strip():
      yield models.ContentText(text=text[at : block.start])
    thought = text[block.inner_start : block.inner_end]
    yield models.ContentReasoning(reasoning=thought)
    at = block.end
  if text[at:].strip() or not text[:at]:
    yield models.ContentText(text=text[at:])
