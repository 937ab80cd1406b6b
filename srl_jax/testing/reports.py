# SPDX-License-Identifier: Apache-2.0
"""Working directories of made-up runs, for tests and times of reports.

The numbers and texts mean nothing. Files are written by the code that writes
those of real runs, as far as it does not need a model.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import random
from collections.abc import Sequence
from typing import Any

from srl_jax import held_out
from srl_jax.config import Config
from srl_jax.rewards import FAILURES, difflib_ratio
from srl_jax.rollout.record import Recorder, RolloutsConfig
from srl_jax.trajectory import Step, Trajectory

_WORDS = (
  *("so", "we", "add", "the", "sum", "of", "x", "and", "y,", "then"),
  *("3", "times", "4", "is", "12", "and", "b", "=", "7"),
)


def write_run(
  workdir: pathlib.Path,
  *,
  seed: int = 0,
  update_steps: int = 20,
  moments: Sequence[int] = (0, 10, 19),
  trajectories: int = 3,
  steps: int = 3,
  samples: int = 4,
  words: int = 12,
  text: str = "",
) -> pathlib.Path:
  """Writes a run of the stage "srl" and returns its folder.

  Args:
    workdir: folder, which is made.
    seed: of the run and of all that is drawn here.
    update_steps: number of update steps, all of them done.
    moments: update steps with rollouts; even ones are of training.
    trajectories: in each file of rollouts.
    steps: of each trajectory.
    samples: of each step.
    words: length of a thought; steps have half as many.
    text: put into every text of the model and the expert.
  """
  draw = random.Random(seed)
  workdir.mkdir(parents=True)
  config = dataclasses.asdict(Config(name="made-up", seed=seed))
  config["srl"]["update_steps"] = update_steps
  (workdir / "config.json").write_text(json.dumps(config))
  _write_lines(
    workdir / "metrics.jsonl", [_row(i, draw) for i in range(update_steps)]
  )
  (workdir / "results.json").write_text(
    json.dumps(
      {
        "before": {"turns accuracy, greedy": [0.25, 0.01, 0.81]},
        "after srl": {"turns accuracy, greedy": [0.75, 0.19, 0.99]},
      }
    )
  )
  for name, correct in (("before", "1000"), ("after_srl", "0111")):
    _write_lines(
      workdir / "solutions" / f"{name}.jsonl",
      [
        {
          "mode": "turns",
          "temperature": 0.0,
          "problem": f"test-{i}",
          "sample": 0,
          "texts": [text],
          "is_correct": is_correct == "1",
          "ending": "answer",
        }
        for i, is_correct in enumerate(correct)
      ],
    )
  (workdir / "model").mkdir()
  (workdir / "model" / "config.json").write_text("{}")
  recorder = Recorder(workdir / "rollouts", RolloutsConfig())
  shapes = (trajectories, steps, samples, words)
  for moment in moments:
    split = "valid" if moment % 2 else "train"
    rows = _rollouts(split, draw, text, *shapes)
    recorder.write("srl", split, moment, rows)
  return workdir


def write_episodes(workdir: pathlib.Path, *, text: str = "") -> pathlib.Path:
  """Gives a run of `write_run` the episodes of an agent, and its expert.

  At "test-0" and "test-1" the expert looks, edits and submits. The agent does
  so after training, and before it is cut off. Sampled, it writes no action.

  Args:
    workdir: folder of the run.
    text: put into the thoughts and the observations.

  Returns:
    The folder.
  """
  actions = ("look a", "edit a=1", "submit")
  seen = (f"a is 0 {text}", "ok", "")
  steps = tuple(
    Step(action, observation=observation)
    for action, observation in zip(actions, seen, strict=True)
  )
  problems = [
    Trajectory(f"test-{i}", "software", "a is 0", steps) for i in range(2)
  ]
  held_out.write({"test": problems}, workdir)
  texts = [f"<think>so {text}</think>\n{action}" for action in actions]
  cut = texts[0], f"<think>so {text}</think>\nedit a=2"
  for moment, episode, is_correct, ending in (
    ("before", cut, False, "turn limit"),
    ("after_srl", texts, True, "environment done"),
  ):
    how = {"mode": "turns", "temperature": 0.0, "sample": 0}
    rows = [
      how
      | {
        "problem": f"test-{i}",
        "texts": episode,
        "observations": seen[: len(episode)],
        "is_correct": is_correct,
        "ending": ending,
      }
      for i in range(2)
    ]
    rows.append(
      rows[0]
      | {"temperature": 1.0, "texts": [texts[0], "<think>so"]}
      | {"observations": seen[:1], "is_correct": False, "ending": "no action"}
    )
    _write_lines(workdir / "solutions" / f"{moment}.jsonl", rows)
  return workdir


def _write_lines(path: pathlib.Path, rows: Sequence[dict[str, Any]]) -> None:
  path.parent.mkdir(exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(update_step: int, draw: random.Random) -> dict[str, float]:
  values = {
    "reward": update_step / 20 + draw.random() / 5,
    "format_failure": draw.random() / 10,
    "groups_sampled": 32,
    "groups_kept": draw.randint(8, 32),
    "tokens_sampled": 1000 + draw.randint(0, 9),
    "update_step_s": 2.5 + draw.random(),
  }
  row = {f"srl/{name}": value for name, value in values.items()}
  return {"update_step": update_step} | row


def _rollouts(split, draw, text, trajectories, steps, samples, words):
  """Rows of a file; a trajectory's problem and steps follow from its number."""
  rows = []
  for number in range(trajectories):
    own = random.Random(number)
    expert = [_sentence(own, words // 2, text) for _ in range(steps)]
    of_trajectory = {
      "trajectory": f"{split}-{number}",
      "problem": f"Problem {number}: {_sentence(own, words, text)}?",
      "steps": [
        {"title": f"Part {k}", "text": x} for k, x in enumerate(expert)
      ],
    }
    for step in range(steps):
      is_kept = draw.random() < 0.5 if split == "train" else None
      for sample in range(samples):
        point = {"step": step, "target": expert[step], "is_kept": is_kept}
        rows.append(
          of_trajectory
          | point
          | {"sample": sample}
          | _sample(draw, words, text, expert[step])
        )
  return rows


def _sample(draw, words, text, target):
  thought = _sentence(draw, words, text)
  # Some of the expert's step, and something else.
  kept = target[: draw.randint(0, len(target))]
  action = f"{kept}{_sentence(draw, words // 4, text)}".strip()
  failure = draw.choice(FAILURES[1:]) if draw.random() < 0.1 else ""
  reward = -1.0 if failure else difflib_ratio(action, target)
  return {
    "text": f"<think>{thought}</think>\n{action}",
    "tokens": words * 2,
    "is_stopped": failure != "not_stopped",
    "reward": reward,
    "value": None if failure else reward,
    "failure": failure,
  }


def _sentence(draw: random.Random, words: int, text: str) -> str:
  return " ".join([*draw.choices(_WORDS, k=words), text]).strip()
