# SPDX-License-Identifier: Apache-2.0
"""What a run measures: before and after its stages, and suites during them.

All moments use the same random numbers, so that differences between them are
not differences of luck.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import pathlib
import re
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from srl_jax import own_code, progress, sharding, storage
from srl_jax.config import Config
from srl_jax.data import batching
from srl_jax.data.trunks import of_first_trajectories
from srl_jax.domains import domains_of
from srl_jax.domains.suite import Problem
from srl_jax.evaluate import evaluator, rules
from srl_jax.evaluate import summary as summary_lib
from srl_jax.evaluate.compare import Result
from srl_jax.evaluate.estimates import Estimate
from srl_jax.evaluate.journal import FACTS, read_facts
from srl_jax.evaluate.kept_episodes import KeptEpisodes
from srl_jax.evaluate.protocols import Decoding
from srl_jax.evaluate.solve import EvalConfig, solve_problems, summarise
from srl_jax.evaluate.steps import evaluate_steps
from srl_jax.inference import ReadyModel, chat_format, checksum_of
from srl_jax.metrics import MetricWriter, read_rows
from srl_jax.overrides import without_changeable
from srl_jax.rewards import RewardConfig, Scorer
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.storage import files, mirror
from srl_jax.train.data import build_split
from srl_jax.train.problems import judgeable
from srl_jax.train.stage import Run
from srl_jax.trajectory import Trajectory

# Settings that the episodes of an evaluation depend on, beside their problems.
_OF_EPISODES = (
  "seed",
  "model",
  "tokenizer",
  "template",
  "observation_tokens",
  "evaluate",
)


class Measuring:
  """The measurements of a run.

  Attributes:
    problems: the problems of its suites.
  """

  def __init__(self, config: Config, run: Run, workdir: pathlib.Path):
    """Reads the suites, so that a missing file shows before any training.

    Raises:
      ValueError: a suite or the protocol is unknown, or a file is missing.
    """
    self._config, self._run, self._workdir = config, run, workdir
    settings = config.evaluate
    self._plan = None
    self.problems: Sequence[Problem] = ()
    if settings.suites:
      problems, domains = evaluator.read_suites(
        ",".join(settings.suites),
        settings.suites_folder,
        domain=config.data.domain,
      )
      self.problems = problems
      self._plan = evaluator.Plan(
        problems,
        domains,
        settings.suite_protocol(),
        config.seed,
        settings.answers_per_batch,
        config.srl.trunks.context_turns,
      )

  def at_moment(self, moment: str, params: Any) -> dict[str, list[float]]:
    """Returns {metric: [value, low, high]} before or after a stage.

    Empty before training if `c.evaluate.before` is False. The values are a row
    of the metrics too, of the last update step that was done (before: -1).
    """
    if moment == "before" and not self._config.evaluate.before:
      return {}
    rows = read_rows(self._workdir / "metrics.jsonl")
    step = max((x["update_step"] for x in rows), default=-1)
    # The trackers are open before the hours that this may take.
    with MetricWriter(
      self._workdir, first_step=step + 1, trackers=self._run.trackers
    ) as writer:
      found = self._evaluate(moment, params)
      row = {metric_name(k): value for k, (value, *_) in found.items()}
      # An attempt that was killed right after it may have written it.
      if row and not any(
        x["update_step"] == step and x.keys() & row.keys() for x in rows
      ):
        writer.write(step, row)
      # No later attempt measures it again.
      mirror.copy_all()
    return found

  def _evaluate(self, moment: str, params: Any) -> dict[str, list[float]]:
    name = moment.replace(" ", "_")
    path = self._solutions(moment)
    settings = self._config.evaluate
    with evaluator.memory_errors(settings.answers_per_batch):
      found = _on_test_split(self._config, self._run, params, path, moment)
    for result in self._on_suites(name, params, self._plan):
      values = summary_lib.summary(result.problems, result.answers)
      for metric, value in values.items():
        if metric == "greedy" or "@" in metric:
          found[f"{result.suite} {metric}"] = value
    return {k: [e.value, e.low, e.high] for k, e in found.items()}

  def written(self, moment: str) -> None:
    """Removes what is kept of a moment until its results are written."""
    folder = _part(self._solutions(moment))
    if jax.process_index() == 0 and folder.exists():
      storage.remove(folder)

  def _solutions(self, moment: str) -> pathlib.Path:
    name = moment.replace(" ", "_")
    return self._workdir / "solutions" / f"{name}.jsonl"

  def is_due(self, done: int) -> bool:
    """Whether suites are answered after `done` update steps of a stage."""
    every = self._config.evaluate.suites_every_update_steps
    return self._plan is not None and every > 0 and done % every == 0

  def measure(self, stage: str, done: int, params: Any) -> dict[str, float]:
    """Returns the greedy accuracy on a part of each suite."""
    settings = self._config.evaluate
    protocol = dataclasses.replace(
      self._plan.protocol, decodings=(Decoding("greedy"),)
    )
    plan = dataclasses.replace(
      self._plan,
      problems=_first_of_each(self._plan.problems, settings.suites_problems),
      protocol=protocol,
    )
    results = self._on_suites(f"{stage}_{done}", params, plan, is_during=True)
    found = {
      f"suite_{result.suite}": float(
        np.mean([answer.is_correct for answer in result.answers])
      )
      for result in results
    }
    # Process 0 has the answers, and all of them go on alike.
    return sharding.gather_objects(found)[0]

  def _on_suites(
    self,
    name: str,
    params: Any,
    plan: evaluator.Plan | None,
    *,
    is_during: bool = False,
  ) -> Sequence[Result]:
    if plan is None:
      return []
    config = self._config
    chat = chat_format(config.template, self._run.template)
    checksum = checksum_of(params)
    model = ReadyModel(
      f"{config.name} {name}", self._run, params, checksum, chat
    )
    plan = evaluator.fitted(model, plan)
    out = self._workdir / "suites" / name
    # A killed attempt may have left answers of other parameters.
    begun = is_during and jax.process_index() == 0 and (out / FACTS).exists()
    if begun and read_facts(out) != evaluator.facts(model, plan):
      storage.remove(out)
    return evaluator.evaluate_suites(model, plan, out)


def metric_name(metric: str) -> str:
  """Returns the name that a metric of results.json has in metrics.jsonl.

  Example: "aime24 avg@32" is "test/aime24_avg_at_32".
  """
  return "test/" + re.sub(r"[^\w.-]+", "_", metric.replace("@", "_at_"))


def _first_of_each(problems: Sequence[Problem], most: int) -> list[Problem]:
  """The first problems of each suite."""
  by_suite: dict[str, list[Problem]] = {}
  for problem in problems:
    by_suite.setdefault(problem.suite, []).append(problem)
  return [p for of_suite in by_suite.values() for p in of_suite[:most]]


def _on_test_split(
  config: Config,
  run: Run,
  params: Any,
  solutions_path: pathlib.Path,
  moment: str,
) -> dict[str, Estimate]:
  """Everything `config.evaluate` asks for, on the test split.

  `solutions_path` gets a line of JSON per solution; `moment` names the
  evaluation in lines of progress.
  """
  if not run.test:
    return {}
  measured = _measure_steps(config, run, params, moment)
  lines = []
  problems = []
  if config.evaluate.modes:
    problems = judgeable(run, "test")[: config.evaluate.problems or None]
  facts = _facts(config, problems, params)
  with KeptEpisodes(_part(solutions_path), facts) as kept:
    # Without any, the table has no row of whole problems.
    solved = _solve(config, run, problems, params, moment, kept)
    for how, episodes, summary in solved if problems else ():
      measured |= summary
      for episode in episodes:
        solution = {
          "problem": problems[episode.problem].id,
          "sample": episode.sample,
          "texts": episode.texts,
          "is_correct": episode.is_correct,
          "ending": episode.ending,
        }
        if episode.observations:
          solution["observations"] = episode.observations
        lines.append(json.dumps(how | solution) + "\n")
    files.write_text(solutions_path, "".join(lines))
  return measured


def _part(solutions_path: pathlib.Path) -> pathlib.Path:
  """The folder of the episodes that an attempt has come to."""
  return solutions_path.with_suffix(".part")


def _facts(
  config: Config, problems: Sequence[Trajectory], params: Any
) -> dict[str, Any]:
  """What the episodes of an evaluation depend on."""
  verdicts = {domain.verdict for domain in domains_of(problems).values()}
  settings = without_changeable(dataclasses.asdict(config))
  return {
    "weights": checksum_of(params),
    "settings": {name: settings[name] for name in _OF_EPISODES},
    "context_turns": config.srl.trunks.context_turns,
    "problems": zlib.crc32(repr(problems).encode()),
    "rules": rules.checksum(verdicts, rules.FILES),
    "own code": own_code.checksums(config),
  }


def trunks_per_batch(settings: EvalConfig, widths: batching.Widths) -> int:
  """How many trunks have as many branch points as completions are decoded."""
  return max(1, settings.answers_per_batch // widths.points)


def _measure_steps(
  config: Config, run: Run, params: Any, moment: str
) -> dict[str, Estimate]:
  settings = config.evaluate
  measured = {}
  trunks = build_split(
    run,
    run.test,
    dataclasses.replace(config.srl.trunks, task="step", starts="problem"),
    "test",
  )
  trunks = of_first_trajectories(trunks, settings.step_trajectories)
  widths = batching.widths(trunks)
  _check_context(run, widths, settings.max_turn_tokens)
  with Scorer(RewardConfig(), config.reward_workers) as scorer:
    for name, temperature in (
      ("greedy", 0.0),
      ("sampled", settings.temperature),
    ):
      sampling = SamplingConfig(
        samples=1,
        max_new_tokens=settings.max_turn_tokens,
        temperature=temperature,
      )
      with progress.task(f"{moment}: single steps, {name}"):
        estimates = evaluate_steps(
          run.sampler(sampling, "step"),
          params,
          trunks,
          key=run.key("evaluate", "steps"),
          tokenizer=run.tokenizer,
          scorer=scorer,
          widths=widths,
          trunks_per_batch=trunks_per_batch(settings, widths),
        )
      for metric, estimate in estimates.items():
        measured[f"step {metric}, {name}"] = estimate
  return measured


def _check_context(run: Run, widths: batching.Widths, new_tokens: int) -> None:
  needed = widths.trunk + widths.stem + new_tokens
  limit = run.policy.config.max_positions
  if needed > limit:
    raise ValueError(
      f"single steps of the test split need a context of {needed} tokens, and "
      f"the model was made for {limit} (c.model.max_positions); lower "
      f"c.evaluate.max_turn_tokens={new_tokens}, or set "
      "c.srl.trunks.max_trunk_tokens to drop the longest contexts"
    )


def _solve(
  config: Config,
  run: Run,
  problems: Sequence[Trajectory],
  params: Any,
  moment: str,
  kept: KeptEpisodes,
):
  """Yields (mode and temperature, episodes, their summary)."""
  settings = config.evaluate
  decodings = [(1, 0.0)]
  if settings.samples:
    decodings.append((settings.samples, settings.temperature))
  for mode, (samples, temperature) in itertools.product(
    settings.modes, decodings
  ):
    key = run.key("evaluate", mode)

    make_stream = functools.partial(run.stream, params, key=key)
    decoding = f"{samples} samples" if temperature else "greedy"
    how = {"mode": mode, "temperature": temperature}
    in_words = "in turns" if mode == "turns" else "in one go"
    with progress.task(f"{moment}: whole problems {in_words}, {decoding}"):
      episodes = solve_problems(
        make_stream,
        problems,
        mode=mode,
        samples=samples,
        temperature=temperature,
        config=settings,
        context_turns=config.srl.trunks.context_turns,
        template=run.template,
        tokenizer=run.tokenizer,
        max_positions=run.policy.config.max_positions,
        done=kept.of(how),
        keep=functools.partial(kept.add, how),
      )
    summary = summarise(episodes, len(problems), samples)
    kind = ", greedy" if not temperature else ""
    yield (
      how,
      episodes,
      {f"{mode} {metric}{kind}": x for metric, x in summary.items()},
    )
