# SPDX-License-Identifier: Apache-2.0
"""Files of rollouts hold whole groups of few trajectories at a few moments."""

import random

import jax
import numpy as np
import pytest

from srl_jax.data import batching
from srl_jax.data.templates import PlainTemplate
from srl_jax.data.trunks import TrunkConfig, build_trunks
from srl_jax.rewards import FAILURES
from srl_jax.rollout.record import (
  SCHEMA,
  Recorder,
  RolloutsConfig,
  first_ids,
  list_files,
  read_file,
  recurring_ids,
  rows_of,
)
from srl_jax.tokenizers import ByteTokenizer
from srl_jax.types import Scores, make_branches
from tests.support.trajectories import TITLED, sums

TRUNKS, _ = build_trunks(
  [sums(2, "a"), TITLED, sums(1, "c")],
  PlainTemplate(),
  ByteTokenizer(),
  TrunkConfig(),
)
SAMPLES = 2


def sampled(trunks):
  """A batch whose samples are "n.k.g", cut by the limit if g is 1."""
  widths = batching.widths(trunks)
  batch = batching.collate(
    trunks,
    trunk_width=widths.trunk,
    points=widths.points,
    stem_width=widths.stem,
  )
  shape = len(trunks), widths.points, SAMPLES
  tokens_NRC = np.zeros((shape[0], shape[1] * SAMPLES, 7), np.int32)
  length_NR = np.zeros(tokens_NRC.shape[:2], np.int32)
  stopped_NR = np.zeros(tokens_NRC.shape[:2], bool)
  for n, k, g in np.ndindex(shape):
    text = ByteTokenizer().encode(f"{n}.{k}.{g}")
    is_stopped = g == 0
    tokens = [1, *text, *([2] if is_stopped else [])]
    r = k * SAMPLES + g
    tokens_NRC[n, r, : len(tokens)] = tokens
    length_NR[n, r], stopped_NR[n, r] = len(tokens), is_stopped
  branches = make_branches(
    tokens_NRC=tokens_NRC,
    stem_length_NR=np.ones_like(length_NR),
    length_NR=length_NR,
    sampler_logp_NRC=np.zeros(tokens_NRC.shape, np.float32),
    stopped_NR=stopped_NR,
  )
  reward_NKG = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  is_broken_NKG = np.indices(shape)[2] == 1
  scores = Scores(
    reward_NKG,
    np.where(is_broken_NKG, np.nan, reward_NKG / 2),
    reward_NKG,
    reward_NKG,
    np.where(is_broken_NKG, FAILURES.index("not_stopped"), 0),
  )
  return batch, branches, scores


def rows(ids, is_kept_NK=None):
  return rows_of(*sampled(TRUNKS), ids, ByteTokenizer(), is_kept_NK)


def test_a_row_tells_all_of_a_sample():
  is_kept_NK = np.array([[True, True], [False, True], [True, True]])
  first, second, *others = rows({"titled"}, is_kept_NK)
  assert len(others) == 2
  assert first == {
    "trajectory": "titled",
    "problem": "Solve x + 1 = 3.",
    "steps": [
      {"title": "Isolate x", "text": "Subtract 1 from both sides."},
      {"title": "Conclude", "text": "x = \\boxed{2}"},
    ],
    "step": 0,
    "target": TRUNKS[1].points[0].target,
    "sample": 0,
    "text": "1.0.0",
    "tokens": 6,  # The stop token counts.
    "is_stopped": True,
    "reward": 4.0,
    "value": 2.0,
    "failure": "",
    "is_kept": False,
  }
  assert second["text"] == "1.0.1" and second["tokens"] == 5
  assert second["failure"] == "not_stopped" and not second["is_stopped"]
  assert second["value"] is None and second["reward"] == 5.0
  assert [x["is_kept"] for x in others] == [True, True]
  assert [x["step"] for x in others] == [1, 1]


def test_only_real_branch_points_of_chosen_trajectories_are_kept():
  # "c" has one step, in a batch of two branch points per trunk.
  found = [(x["trajectory"], x["text"]) for x in rows({"a", "c", "absent"})]
  assert found == [
    *(("a", f"0.{k}.{g}") for k in (0, 1) for g in (0, 1)),
    *(("c", f"2.0.{g}") for g in (0, 1)),
  ]
  assert {x["is_kept"] for x in rows({"a"})} == {None}


def test_what_is_written_is_read_back(tmp_path):
  written = rows({"a", "titled"})
  Recorder(tmp_path, RolloutsConfig()).write("srl", "valid", 7, written)
  [file] = list_files(tmp_path)
  assert file[:3] == ("srl", 7, "valid")
  moment = {"stage": "srl", "split": "valid", "update_step": 7}
  assert read_file(file.path) == [moment | row for row in written]
  assert read_file(file.path)[0].keys() == SCHEMA.keys()
  assert [x.name for x in tmp_path.iterdir()] == ["srl.00000007.valid.parquet"]


def test_half_a_surrogate_pair_in_the_data_can_be_written(tmp_path):
  [trunk], _ = build_trunks(
    [sums(1, "a?")], PlainTemplate(), ByteTokenizer(), TrunkConfig()
  )
  object.__setattr__(trunk.trajectory, "problem", "\ud800 and 😀")
  written = rows_of(*sampled([trunk]), {"a?"}, ByteTokenizer())
  Recorder(tmp_path, RolloutsConfig()).write("srl", "train", 0, written)
  [file] = list_files(tmp_path)
  assert read_file(file.path)[0]["problem"] == "? and 😀"


def due(every, total, max_files=100):
  config = RolloutsConfig(every_update_steps=every, max_files=max_files)
  recorder = Recorder(None, config)
  return [i for i in range(total) if recorder.is_due_in_training(i, total)]


def test_training_is_kept_every_so_many_update_steps_and_not_too_often():
  assert due(every=5, total=12) == [0, 5, 10]
  assert due(every=5, total=10) == [0, 5]
  # Seven moments, of which three are kept: the 3rd, 5th and 7th.
  assert due(every=2, total=13, max_files=3) == [4, 8, 12]
  for total in range(1, 40):
    assert len(due(1, total, max_files=7)) == min(total, 7)
  assert due(every=0, total=10) == []


def test_validations_are_kept_and_the_last_one_always():
  def due(validate_every, total, every=5, max_files=100):
    config = RolloutsConfig(every_update_steps=every, max_files=max_files)
    recorder = Recorder(None, config)
    # As the loop validates: after every so many, and after the last.
    moments = [
      i
      for i in range(total)
      if i + 1 == total or (validate_every and (i + 1) % validate_every == 0)
    ]
    return [
      i
      for i in moments
      if recorder.is_due_in_validation(i, total, validate_every)
    ]

  assert due(4, 10) == [3, 7, 9]
  assert due(0, 10) == [9]
  assert due(1, 10, max_files=2) == [4, 9]
  assert due(3, 10, max_files=1) == [9]
  assert due(1, 10, every=0) == []


def test_other_processes_keep_nothing(monkeypatch, tmp_path):
  recorder = Recorder(tmp_path, RolloutsConfig())
  recorder.write("srl", "train", 0, rows({"a"}))
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  assert not recorder.is_due_in_training(0, 10)
  assert not recorder.is_due_in_validation(9, 10, 0)
  recorder.drop_from("srl", 0)
  assert len(list_files(tmp_path)) == 1


def test_a_resumed_stage_drops_what_it_will_write_again(tmp_path):
  recorder = Recorder(tmp_path, RolloutsConfig())
  for stage in ("srl", "rlvr"):
    for update_step in (0, 5, 9, 10):
      recorder.write(stage, "train", update_step, rows({"a"}))
  (tmp_path / "mine.parquet").write_text("")
  recorder.drop_from("srl", 9)
  left = [(x.stage, x.update_step) for x in list_files(tmp_path)]
  of_rlvr = [("rlvr", x) for x in (0, 5, 9, 10)]
  assert left == [*of_rlvr, ("srl", 0), ("srl", 5)]
  assert (tmp_path / "mine.parquet").exists()


def test_a_trajectory_that_was_chosen_is_chosen_again():
  trajectories = [sums(1, f"t{i}") for i in range(40)]
  often = recurring_ids(trajectories, 20)
  assert len(often) == 20
  for seed in range(5):
    batch = random.Random(seed).sample(trajectories, 16)
    chosen = recurring_ids(batch, 4)
    assert len(chosen) == 4
    # Whoever was among the chosen comes before all others.
    here = {x.id for x in batch}
    assert chosen <= often or len(often & here) < 4
  few = [*trajectories[5:7], trajectories[5], *trajectories]
  assert first_ids(few, 3) == {"t5", "t6", "t0"}


def test_a_file_of_something_else_is_an_error(tmp_path):
  path = tmp_path / "srl.00000000.train.parquet"
  path.write_text("no Parquet")
  with pytest.raises(ValueError, match="is no file of rollouts"):
    read_file(path)


@pytest.mark.parametrize(
  ("field", "value"),
  [("every_update_steps", -1), ("trajectories", 0), ("max_files", 0)],
)
def test_impossible_settings_are_errors(field, value):
  with pytest.raises(ValueError, match=rf"^{field}={value}; set it"):
    RolloutsConfig(**{field: value})
