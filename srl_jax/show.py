# SPDX-License-Identifier: Apache-2.0
"""Shows samples of a run's model beside the expert's steps.

  srl_jax show --workdir=/tmp/srl --samples=3
  srl_jax show --workdir=/tmp/srl --moment=before --html=before.html

Samples for held-out problems, as in training. report/samples.py formats them.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Literal

import jax

from srl_jax import (
  compilation_cache,
  initial_weights,
  loading,
  sharding,
  storage,
)
from srl_jax.arguments import HelpFormatter, errors_in_one_line
from srl_jax.config import Config
from srl_jax.data import batching
from srl_jax.data.trunks import Trunk
from srl_jax.domains import domains_of, find_domain
from srl_jax.models import weights
from srl_jax.report.samples import Sample, samples_html, samples_text
from srl_jax.rewards import FAILURES, Completion, Scorer, format
from srl_jax.rollout import scoring
from srl_jax.rollout.batches import sample_all
from srl_jax.storage import files
from srl_jax.train.data import build_split
from srl_jax.train.rl_config import RlConfig
from srl_jax.train.stage import Run

Moment = Literal["before", "after"]


def draw_samples(
  workdir: str | os.PathLike, count: int = 3, moment: Moment = "after"
) -> list[Sample]:
  """Samples steps from a run's model and scores them as training did.

  That is, as its last stage of SRL or RLVR; without one, as SRL would.

  Every sample is for another trajectory of the test split (or the validation
  split, if there is no test split) and, as far as possible, for another step
  number. The same call draws the same samples, and "before" and "after" show
  the same steps.

  Args:
    workdir: folder of the run.
    count: number of samples, or all trajectories if there are fewer.
    moment: "before" or "after" the whole training.

  Raises:
    ValueError: there is no run, or it is not finished.
  """
  if count < 1:
    raise ValueError(f"got samples={count}; ask for 1 or more")
  workdir = storage.path(workdir)
  config = loading.on_this_machine(loading.read_run_config(workdir))
  # SFT has no reward, and episodes are rewarded as a whole.
  name = ["srl", *(x for x in config.stages if x in ("srl", "rlvr"))][-1]
  stage_config = getattr(config, name)
  if config.data.domain:
    find_domain(config.data.domain)  # It may have to be imported.
  mesh = sharding.make_mesh(config.mesh)
  with jax.set_mesh(mesh):
    run = loading.load_saved(config, mesh, workdir)
    if not (run.test or run.valid):
      # A version that did not keep them in its workdir.
      run = loading.load_run(config, mesh, workdir)
    params = _read_params(run, config, workdir, moment)
    reward = scoring.resolve_reward(
      stage_config.reward,
      stage_config.trunks.task,
      domains_of([*run.test, *run.valid]),
      name,
    )
    stage_config = dataclasses.replace(stage_config, reward=reward)
    trunks = build_split(
      run, run.test or run.valid, stage_config.trunks, "test"
    )
    return _draw(run, stage_config, params, trunks[:count])


def _read_params(
  run: Run, config: Config, workdir: pathlib.Path, moment: Moment
):
  if moment == "before":
    return initial_weights.base_params(run, config, workdir)
  folder = workdir / "model"
  if not (folder / "config.json").is_file():
    raise ValueError(
      f"the run in {workdir} is not finished (no {folder.name}); run the "
      "command that started it again, or ask for moment=before"
    )
  return weights.load_params(folder, run.policy, run.mesh, run.key("weights"))


def _draw(
  run: Run, config: RlConfig, params, trunks: Sequence[Trunk]
) -> list[Sample]:
  trunks = [
    dataclasses.replace(trunk, points=(trunk.points[i % len(trunk.points)],))
    for i, trunk in enumerate(trunks)
  ]
  widths = batching.widths(trunks)
  batch = batching.collate(
    trunks,
    trunk_width=widths.trunk,
    points=widths.points,
    stem_width=widths.stem,
  )
  sampling = dataclasses.replace(config.sampling.for_sampler(), samples=1)
  branches = sample_all(
    run.sampler(sampling, config.trunks.task),
    params,
    batch,
    run.key("show"),
    len(trunks),
  )
  with Scorer(config.reward) as scorer:
    scores = scoring.score_branches(batch, branches, run.tokenizer, scorer)
  texts = scoring.completion_texts(branches, run.tokenizer)
  return [
    _sample(
      run,
      trunk,
      completion,
      float(scores.reward_NKG[n, 0, 0]),
      FAILURES[scores.failure_NKG[n, 0, 0]],
    )
    for n, (trunk, [completion]) in enumerate(zip(trunks, texts, strict=True))
  ]


def _sample(
  run: Run,
  trunk: Trunk,
  completion: Completion,
  reward: float,
  failure: str,
) -> Sample:
  [point] = trunk.points
  thought, action = "", completion.text
  if not failure:
    thought, action, _ = format.split_lenient(completion.text)
  return Sample(
    heading=f"{trunk.trajectory.id}, step {point.step + 1}",
    context=run.tokenizer.decode(trunk.tokens[: point.at]),
    thought=thought,
    action=action,
    expert=point.target.strip(format.WHITESPACE),
    reward=reward,
    failure=failure,
  )


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message if there is nothing to show."""
  parser = argparse.ArgumentParser(
    prog="srl_jax show",
    description=__doc__.partition("\n")[0],
    formatter_class=HelpFormatter,
  )
  parser.add_argument("--workdir", required=True, help="working directory")
  parser.add_argument(
    "--samples", type=int, default=3, help="number of samples"
  )
  parser.add_argument(
    "--moment",
    choices=("before", "after"),
    default="after",
    help="model before or after training",
  )
  parser.add_argument(
    "--html", metavar="FILE", help="write a page instead of printing"
  )
  args = parser.parse_args(argv)
  with errors_in_one_line():
    compilation_cache.use_default()
    html = storage.path(args.html) if args.html else None
    if html:
      files.check_writable(html, "--html")
    samples = draw_samples(args.workdir, args.samples, args.moment)
    if html is None:
      print(samples_text(samples, color=sys.stdout.isatty()))
      return
    page = (
      '<!doctype html>\n<meta charset="utf-8">\n<title>Samples</title>\n'
      + samples_html(samples)
    )
    html.write_text(page + "\n", encoding="utf-8")
  print(f"{len(samples)} samples are in {html}")


if __name__ == "__main__":
  main()
