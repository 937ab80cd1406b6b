# SPDX-License-Identifier: Apache-2.0
"""RL on outcomes of episodes: what is trained on, skipped, and resumed."""

import dataclasses
import re
import types

import jax
import numpy as np
import pytest

from srl_jax import config as config_lib
from srl_jax import loading, sharding
from srl_jax.models import LanguageModel
from srl_jax.rollout import episodes, record
from srl_jax.testing import experiment
from srl_jax.testing.tiny import small_mesh
from srl_jax.train import episodes as episodes_stage
from srl_jax.train import loop, stage
from srl_jax.train.problems import Problems
from srl_jax.update import turns as turns_lib


def train(runs, whole, workdir, **more):
  """Goes on from the run `whole`, which solves some of its problems."""
  return runs.run(
    workdir,
    "episodes",
    weights=str(whole.workdir / "model"),
    tokenizer__path=str(whole.workdir / "tokenizer.model"),
    tokenizer__train_vocab_size=0,
    rollouts__every_update_steps=1,
    **more,
  )


@pytest.fixture(scope="module")
def through(runs, whole):
  return train(runs, whole, runs.folder / "outcomes")


def test_episodes_are_sampled_filtered_and_trained_on(through):
  rows = [x for x in through.rows() if "episodes/reward" in x]
  assert len(rows) == 3
  assert any(0 < row["episodes/reward"] < 1 for row in rows)
  assert any(not row["episodes/skipped_updates"] for row in rows)
  shares = [row["episodes/kept_share"] for row in rows]
  assert all(0 <= share <= 1 for share in shares) and min(shares) < 1
  assert shares == [row["episodes/differing_share"] for row in rows]
  for row in rows:
    assert row["episodes/groups_sampled"] == 8 * row["episodes/rounds"]
    assert 1 <= row["episodes/turns"] <= 3
    if not row["episodes/skipped_updates"]:
      assert row["episodes/grad_norm"] > 0
      # The trainer sees what the sampler saw, at every turn.
      assert row["episodes/logp_gap_max"] < 1e-4
  # Of sampling too, not only the two of the update.
  lines = (through.workdir / "metrics.jsonl").read_text()
  first, *_ = re.findall(r'"episodes/programs": ([\d.]+)', lines)
  assert float(first) > 2
  values = [x for x in through.rows() if "episodes/validation_reward" in x]
  assert len(values) == 3


def test_episodes_of_training_and_validation_are_kept_to_look_at(through):
  files = record.list_files(through.workdir / "rollouts")
  assert {(x.stage, x.split) for x in files} == {
    ("episodes", "train"),
    ("episodes", "valid"),
  }
  kept = set()
  for file in files:
    rows = record.read_file(file.path)
    kept |= {x["is_kept"] for x in rows}
    by_episode = {}
    for row in rows:
      name = row["trajectory"], row["sample"]
      by_episode.setdefault(name, []).append(row)
    samples = 4 if file.split == "train" else 1
    assert len(by_episode) == 8 * samples
    for turns in by_episode.values():
      assert [x["step"] for x in turns] == list(range(len(turns)))
      assert len({x["reward"] for x in turns}) == 1, "that of the episode"
  assert kept == {True, False, None}


def test_the_memory_of_sampling_and_update_is_planned(
  runs, whole, tmp_path, capsys
):
  train(
    runs,
    whole,
    tmp_path / "run",
    data__test_size=0,
    checkpoint__every_update_steps=3,
  )
  lines = capsys.readouterr().out.splitlines()
  plan = [x.partition("   ")[0] for x in lines if "fits (" in x]
  assert plan == [
    "episodes: rollout: admit",
    "episodes: rollout: extend",
    "episodes: rollout: segment",
    "episodes: update: accumulate",
    "episodes: update: finish",
  ]


def test_stopped_and_resumed_it_ends_with_the_same_bits(
  runs, whole, through, tmp_path
):
  outcome = experiment.RunOutcome(tmp_path / "pieces")
  with pytest.raises(loop.Stopped):
    train(
      runs,
      whole,
      outcome.workdir,
      events={("episodes", 1): experiment.terminate},
      outcome=outcome,
    )
  train(runs, whole, outcome.workdir, outcome=outcome)
  ours, theirs = (x.saved["episodes", 3] for x in (outcome, through))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  assert outcome.rows() == through.rows()
  files = [x.workdir / "model/model.safetensors" for x in (outcome, through)]
  assert files[0].read_bytes() == files[1].read_bytes()


def test_without_a_problem_that_teaches_the_update_step_is_skipped(
  runs, tmp_path, monkeypatch
):
  monkeypatch.setattr(
    episodes_stage.EpisodesStage, "_is_kept", lambda *_: False
  )
  outcome = runs.run(
    tmp_path,
    "episodes",
    episodes__update_steps=2,
    episodes__passes=2,
    episodes__turns=1,
    checkpoint__every_update_steps=1,
  )
  rows = [x for x in outcome.rows() if "episodes/reward" in x]
  assert [row["episodes/skipped_updates"] for row in rows] == [2, 2]
  assert [row["episodes/rounds"] for row in rows] == [3, 3]
  # No micro-batch was run.
  assert [row["episodes/micro_batches"] for row in rows] == [0, 0]
  assert [row["episodes/grad_norm"] for row in rows] == [0, 0]
  first, second = (outcome.saved["episodes", step][0] for step in (1, 2))
  jax.tree.map(np.testing.assert_array_equal, first["params"], second["params"])
  # The schedule of the learning rate counts the steps, and nothing else does.
  moved = [
    (int(a), int(b))
    for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True)
    if np.ndim(a) == 0 and a != b
  ]
  assert moved == [(2, 4)]


def test_contexts_are_those_of_evaluation():
  c = config_lib.default_config()
  c.stages, c.srl.trunks.context_turns = ("episodes",), 1
  with pytest.raises(
    ValueError, match=r"episodes\.context_turns=0 and srl\S+turns=1: eva"
  ):
    config_lib.to_config(c.copy_and_resolve_references())
  c.episodes.context_turns = 1
  config_lib.to_config(c)


@pytest.mark.parametrize("is_wide", [False, True])
def test_trunks_begin_as_wide_as_contexts_get_where_width_costs_no_time(
  runs, tmp_path, monkeypatch, is_wide
):
  def stream(self, params, task, *, trunk_width, **more):
    raise KeyError(trunk_width)

  monkeypatch.setattr(stage.Run, "stream", stream)
  monkeypatch.setattr(LanguageModel, "reads_what_is_seen", is_wide)
  c = runs.config("episodes")
  mesh = small_mesh()
  with jax.set_mesh(mesh):
    run = loading.load_run(c, mesh, tmp_path)
    made = episodes_stage.EpisodesStage(run, "episodes", c.episodes)
    with pytest.raises(KeyError) as caught:
      made.validate(None, 0)
  # Everything but a completion.
  width = c.model.max_positions - c.episodes.max_new_tokens
  assert caught.value.args == (width if is_wide else 0,)


def test_validation_episodes_without_a_verdict_do_not_choose_the_best(
  capsys,
):
  made = episodes_stage.EpisodesStage.__new__(episodes_stage.EpisodesStage)
  made.name, made._valid = "episodes", [None] * 4
  made._run = types.SimpleNamespace(
    key=lambda *_: jax.random.key(0), recorder=None
  )
  made.config = types.SimpleNamespace(update_steps=10, validate_every=1)

  def validate(*verdicts):
    episodes = [[types.SimpleNamespace(is_correct=x)] for x in verdicts]
    made._episodes = lambda *_: episodes
    return made.validate(None, 0)

  assert validate(True, True, True, False) == (
    0.75,
    {"validation_reward": 0.75, "validation_no_verdict": 0},
  )
  assert "warning" not in capsys.readouterr().out
  # One that happens to be judged is no reason to think the model perfect.
  assert validate(True, None, None, None) == (
    0.25,
    {"validation_reward": 1.0, "validation_no_verdict": 0.75},
  )
  assert "warning: 3 of 4 validation episodes" in capsys.readouterr().out
  assert validate(None, None, None, None) == (0, {"validation_no_verdict": 1})


def test_a_problem_that_comes_twice_in_a_round_is_sampled_twice(
  runs, tmp_path, monkeypatch
):
  sampled = []

  def sample(stream, problems, wanted, rules):
    sampled.append([(problems[i].id, sample) for i, sample in wanted])
    return episodes.sample_episodes(stream, problems, wanted, rules)

  monkeypatch.setattr(episodes_stage, "sample_episodes", sample)
  runs.run(
    tmp_path,
    "episodes",
    episodes__update_steps=1,
    episodes__turns=1,
    data__train_size=5,
    data__test_size=0,
  )
  rounds = [x for x in sampled if len(x) == 8 * 4]
  assert rounds
  for round_ in rounds:
    assert len({name for name, _ in round_}) == 5
    assert len(set(round_)) == len(round_)


def test_an_answer_that_the_limit_cut_off_is_no_success(
  runs, tmp_path, monkeypatch
):
  def sample(*arguments):
    for episode in episodes.sample_episodes(*arguments):
      [turn] = episode.drawn
      # Every second one of training; the one sample of validation is cut.
      turn = turn._replace(is_stopped=episode.sample % 2 == 1)
      yield dataclasses.replace(episode, is_correct=True, drawn=(turn,))

  monkeypatch.setattr(episodes_stage, "sample_episodes", sample)
  outcome = runs.run(
    tmp_path,
    "episodes",
    episodes__update_steps=1,
    episodes__turns=1,
    data__test_size=0,
  )
  rows = {k: x for row in outcome.rows() for k, x in row.items()}
  assert rows["episodes/reward"] == rows["episodes/cut_turns"] == 0.5
  assert rows["episodes/validation_reward"] == 0
  for file in record.list_files(tmp_path / "rollouts"):
    for row in record.read_file(file.path):
      assert row["reward"] == row["is_stopped"]


def with_verdicts(monkeypatch, *verdicts):
  """Makes episodes end with verdicts that follow from the sample alone."""

  def sample(*arguments):
    for episode in episodes.sample_episodes(*arguments):
      [turn] = episode.drawn
      turn = turn._replace(is_stopped=True)
      is_correct = verdicts[episode.sample % len(verdicts)]
      yield dataclasses.replace(episode, is_correct=is_correct, drawn=(turn,))

  monkeypatch.setattr(episodes_stage, "sample_episodes", sample)


ONE_TURN = {
  "episodes__update_steps": 1,
  "episodes__turns": 1,
  "data__test_size": 0,
}


def test_an_episode_without_a_verdict_is_in_no_group(
  runs, tmp_path, monkeypatch
):
  with_verdicts(monkeypatch, True, False, None, None)
  groups = []
  make = turns_lib.make_turns

  def make_turns(problems, **more):
    groups.extend([x.reward for x in group] for group in problems)
    return make(problems, **more)

  monkeypatch.setattr(turns_lib, "make_turns", make_turns)
  outcome = runs.run(tmp_path, "episodes", **ONE_TURN)
  rows = {k: x for row in outcome.rows() for k, x in row.items()}
  assert record.list_files(tmp_path / "rollouts")
  # As unsolved ones, they would make the reward 0.25.
  assert rows["episodes/reward"] == rows["episodes/no_verdict"] == 0.5
  assert groups and all(group == [1.0, 0.0] for group in groups)
  for file in record.list_files(tmp_path / "rollouts"):
    kept = record.read_file(file.path)
    for row in kept if file.split == "train" else ():
      assert row["value"] == (1.0, 0.0, None, None)[row["sample"]]
      assert row["reward"] == (row["value"] or 0)


def test_without_any_verdict_a_run_ends(runs, tmp_path, monkeypatch):
  with_verdicts(monkeypatch, None)
  with pytest.raises(RuntimeError, match=r"none of .* episodes has a verdict"):
    runs.run(tmp_path, "episodes", **ONE_TURN)


def test_problems_that_cannot_be_used_are_left_out(runs, tmp_path, capsys):
  config = runs.config("episodes")
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with runs.quickly(), jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, tmp_path)
    first, second, *others = run.train
    long = dataclasses.replace(first, problem="1 " * 5000)
    bare = dataclasses.replace(second, answer=None)
    run = dataclasses.replace(run, train=[long, bare, *others])
    made = episodes_stage.EpisodesStage(run, "episodes", config.episodes)
  taken, epochs = made._problems.take(len(others))
  assert not any(epochs)
  assert {x.id for x in taken} == {x.id for x in others}
  lines = capsys.readouterr().out.splitlines()
  assert lines == [
    "warning: train: 1 of 48 problems have no reference answer and are left "
    "out where solutions are judged",
    "episodes: 1 of 47 problems of the train split are left out: they leave no "
    "room for a turn",
  ]


def test_a_context_that_is_too_short_is_an_error(runs, tmp_path):
  with pytest.raises(
    ValueError, match=r"episodes needs a context of .*max_context_"
  ):
    runs.run(tmp_path, "episodes", episodes__max_context_tokens=3)
  assert not (tmp_path / "results.json").exists()


def test_problems_are_taken_in_another_order_in_each_epoch(through):
  names = [str(i) for i in range(50)]
  problems = Problems(names, 0, "episodes")
  first, epochs = problems.take(30)
  assert epochs == [0] * 30
  state = problems.get_state()
  rest, epochs = problems.take(70)
  assert epochs == [0] * 20 + [1] * 50
  assert sorted(first + rest[:20]) == sorted(rest[20:]) == sorted(names)
  assert first + rest[:20] != rest[20:]
  again = Problems(names, 0, "episodes")
  again.set_state(state)
  assert again.take(70) == (rest, epochs)
  others = Problems([*names[1:], "other"], 0, "episodes")
  with pytest.raises(ValueError, match="problems_crc32 of its data was"):
    others.set_state(state)
  rounds = sum(row.get("episodes/rounds", 0) for row in through.rows())
  _, _, meta = through.saved["episodes", 3]
  assert meta["data"]["problems_taken"] == 8 * rounds


def test_validation_takes_no_more_rows_than_sampling(
  runs, whole, tmp_path, monkeypatch
):
  made = []
  real = stage.Run.stream

  def stream(self, params, task, *, rows, **more):
    made.append((params is None, rows))
    return real(self, params, task, rows=rows, **more)

  monkeypatch.setattr(stage.Run, "stream", stream)
  found = train(
    runs,
    whole,
    tmp_path,
    data__test_size=0,
    episodes__problems_per_round=1,
    episodes__keep_all=True,
  )
  rows = [x for x in found.rows() if "episodes/reward" in x]
  assert {row["episodes/kept_share"] for row in rows} == {1}
  assert min(row["episodes/differing_share"] for row in rows) < 1
  [planned] = [rows for is_plan, rows in made if is_plan]
  run = [rows for is_plan, rows in made if not is_plan]
  assert len(run) > 1 and max(run) == planned == 4
