# SPDX-License-Identifier: Apache-2.0
"""Trackers get what metrics.jsonl has, and cost no run when they fail."""

import contextlib
import json
import math
import struct
import sys

import markdown_it
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from srl_jax import run
from srl_jax.metrics import MetricWriter
from srl_jax.storage import mirror
from srl_jax.trackers import tracker
from srl_jax.trackers import trackers as trackers_lib
from srl_jax.trackers.tensorboard import TensorBoard
from srl_jax.trackers.trackers import Trackers, TrackersConfig, open_trackers


def sample(reward, text="", **more):
  row = dict.fromkeys(tracker.SHOWN, "") | {
    "reward": reward,
    "text": text,
    "tokens": 3,
    "step": 0,
    "is_kept": None,
  }
  return row | more


class Notebook:
  """A tracker that writes down what it is told."""

  def __init__(self, fails_at=None):
    self.said, self._fails_at = [], fails_at

  def __getattr__(self, method):
    def note(*args):
      if args[:1] == (self._fails_at,):
        raise OSError("the\nline is cut")
      self.said.append((method, *args))

    return note


def events(folder):
  for path in sorted(folder.glob("events*")):
    data = path.read_bytes()
    while data:
      # A record is length, checksum, event, checksum.
      (length,) = struct.unpack("<Q", data[:8])
      yield event_pb2.Event.FromString(data[12 : 12 + length])
      data = data[16 + length :]


def shown(folder, field):
  return [
    (event.step, value.tag, getattr(value, field))
    for event in events(folder)
    for value in event.summary.value
    if value.HasField(field)
  ]


def test_trackers_get_the_rows_of_the_file_under_the_same_names(tmp_path):
  book = Notebook()
  trackers = Trackers({"tensorboard": book})
  with MetricWriter(tmp_path, trackers=trackers) as writer:
    writer.write(0, {"reward": 0.5, "ratio": math.nan}, "srl/")
    writer.write(0, {"accuracy": 1}, "srl/")
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert book.said[0] == ("begin", 0, [])
  assert book.said[1:] == [
    (
      "scalars",
      row.pop("update_step"),
      {k: v for k, v in row.items() if v is not None},
    )
    for row in rows
  ]
  with MetricWriter(tmp_path, first_step=1, trackers=trackers):
    pass
  # They stay open, and a new one could make up for what it missed.
  before = [json.loads(line) for line in lines]
  assert book.said[3:] == [("begin", 1, before)]


def test_samples_wait_for_the_row_of_their_update_step():
  book = Notebook()
  trackers = Trackers({"wandb": book}, texts=2)
  trackers.begin(100, 100, [])
  rewards = np.array([0.5, np.nan, 1.0], np.float32)
  trackers.keep(0, histograms={"srl/samples/reward": rewards})
  trackers.keep(0, histograms={"srl/samples/none": rewards[1:2]})
  # Update step 1 is under way when the row of 0 is written.
  rows = [sample(x, str(x)) for x in (0.5, 0.0, 1.0)]
  trackers.keep(1, rollouts={"srl/samples/train": rows})
  trackers.write(100, {"loss": 1.0})
  trackers.write(101, {"loss": 2.0})
  trackers.write(102, {"loss": 3.0})
  methods = [(method, *args[:2]) for method, *args in book.said[1:]]
  assert methods == [
    ("scalars", 100, {"loss": 1.0}),
    ("histogram", 100, "srl/samples/reward"),
    ("scalars", 101, {"loss": 2.0}),
    ("texts", 101, "srl/samples/train"),
    ("scalars", 102, {"loss": 3.0}),
  ]
  assert book.said[2][3].tolist() == [0.5, 1.0]
  assert [row["text"] for row in book.said[4][3]] == ["0.0", "1.0"]


def test_samples_of_an_attempt_that_ended_are_not_shown_later():
  book = Notebook()
  trackers = Trackers({"wandb": book})
  trackers.begin(0, 0, [])
  trackers.keep(1, histograms={"x": np.ones(1)})
  trackers.begin(0, 1, [])
  trackers.write(1, {"loss": 1.0})
  assert "histogram" not in [method for method, *_ in book.said]


def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(
  tmp_path, capsys
):
  broken, whole = Notebook(fails_at=1), Notebook()
  trackers = Trackers({"wandb": broken, "trackio": whole})
  with MetricWriter(tmp_path, trackers=trackers) as writer:
    for step in range(4):
      writer.write(step, {"loss": 1.0})
  trackers.close()
  [line] = capsys.readouterr().out.splitlines()
  assert line == (
    "warning: wandb shows nothing more of this run: the line is cut; type "
    "wandb login, or WANDB_MODE=offline before the command, or leave "
    "--config.trackers.wandb out"
  )
  assert len(broken.said) == 2, "begin and step 0"
  assert len(whole.said) == 6, "begin, four steps, close"
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert len(lines) == 4


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_library_that_is_missing_is_a_warning_with_what_to_type(
  name, tmp_path, monkeypatch, capsys
):
  monkeypatch.setitem(sys.modules, name, None)
  config = TrackersConfig(tensorboard=False, **{name: True})
  trackers = open_trackers(config, tmp_path, {}, "")
  [line] = capsys.readouterr().out.splitlines()
  assert line.startswith(f"warning: {name} shows nothing more of this run: ")
  assert f"type: pip install {name}; " in line
  assert not trackers.is_watching


def test_only_what_is_asked_for_is_opened(tmp_path):
  assert open_trackers(TrackersConfig(), tmp_path, {}, "").is_watching
  none = TrackersConfig(tensorboard=False)
  assert not open_trackers(none, tmp_path, {}, "").is_watching
  assert not list(tmp_path.iterdir())


def test_a_project_without_a_name_and_a_negative_number_are_refused():
  with pytest.raises(ValueError, match="project is empty; set it to a name"):
    TrackersConfig(project="")
  with pytest.raises(ValueError, match="texts=-1; set it to 0 or more"):
    TrackersConfig(texts=-1)


def test_tensorboard_gets_numbers_histograms_and_texts(tmp_path):
  trackers = Trackers({"tensorboard": TensorBoard(tmp_path)}, texts=3)
  trackers.begin(0, 0, [])
  rewards = np.array([-1.0, 0.25, 0.25, 1.0])
  trackers.keep(0, histograms={"srl/samples/reward": rewards})
  rows = [sample(0.25, "# a"), sample(-1.0, "<b>", failure="no_thought")]
  trackers.keep(0, rollouts={"srl/samples/valid": rows})
  trackers.write(0, {"srl/reward": 0.125, "srl/loss": math.nan})
  trackers.close()
  assert shown(tmp_path, "simple_value") == [(0, "srl/reward", 0.125)]
  [(step, tag, histogram)] = shown(tmp_path, "histo")
  assert (step, tag) == (0, "srl/samples/reward")
  assert (histogram.num, histogram.min, histogram.max) == (4, -1, 1)
  assert (histogram.sum, histogram.sum_squares) == (0.5, 2.125)
  # 40 bins of 0.05: the first, the 25th (0.25 begins it) and the last.
  counts = np.zeros(40)
  counts[[0, 25, 39]] = 1, 2, 1
  np.testing.assert_array_equal(histogram.bucket, counts)
  # 32-bit floats would not hold the edges exactly; these are doubles.
  np.testing.assert_allclose(
    histogram.bucket_limit, np.linspace(-1, 1, 41)[1:], atol=1e-12
  )
  [(step, tag, tensor)] = shown(tmp_path, "tensor")
  assert (step, tag) == (0, "srl/samples/valid/text_summary")
  text = tensor.string_val[0].decode()
  assert text.index("reward -1.000**, no_thought") < text.index("reward 0.250")


def test_a_resumed_run_tells_readers_which_events_to_drop(tmp_path):
  for first in (0, 0, 7):
    trackers = Trackers({"tensorboard": TensorBoard(tmp_path / str(first))})
    trackers.begin(0, first, [])
    trackers.write(first, {"x": 1.0})
    trackers.close()
    starts = [
      event.step
      for event in events(tmp_path / str(first))
      if event.HasField("session_log")
    ]
    assert starts[-1] == first


def test_samples_are_chosen_from_the_worst_reward_to_the_best():
  rewards = [0.5, float("nan"), 1.0, 0.0, -1.0]
  rows = [sample(reward, str(reward)) for reward in rewards]
  chosen = tracker.spread(rows, 3)
  assert [row["text"] for row in chosen] == ["nan", "0.0", "1.0"]
  assert set(chosen[0]) == set(tracker.SHOWN)
  assert len(tracker.spread(rows, 9)) == 5
  assert tracker.spread(rows, 0) == []
  assert tracker.spread([], 3) == []


NASTY = "a ```` b\n```\n# c\n<script>x</script> *d* [e](f)\n---\n$g_h$ | i"


def test_markdown_shows_texts_letter_by_letter():
  rows = [
    sample(0.5, NASTY, target="| x |", problem="`", trajectory="a*b*<i>\n# c"),
    sample(-1.0, "", failure="no_thought"),
  ]
  tokens = markdown_it.MarkdownIt().parse(tracker.markdown(rows))
  fences = [token.content for token in tokens if token.type == "fence"]
  assert fences == [f"{NASTY}\n", "| x |\n", "`\n", "\n", "\n", "\n"]
  assert [token.type for token in tokens].count("hr") == 1
  inline = [
    x for token in tokens if token.type == "inline" for x in token.children
  ]
  assert not [x for x in inline if x.type in ("em_open", "html_inline")]
  said = "".join(x.content for x in inline)
  assert "step 1 of a*b*<i> # c" in said


@pytest.mark.parametrize("fails", [False, True])
def test_trackers_learn_whether_a_run_has_failed(
  runs, tmp_path, monkeypatch, fails
):
  book = Notebook()
  trackers = Trackers({"wandb": book})
  monkeypatch.setattr(run, "open_trackers", lambda *_: trackers)

  def cut():
    raise KeyboardInterrupt

  events = {("sft", 2): cut} if fails else {}
  caught = pytest.raises(KeyboardInterrupt)
  with caught if fails else contextlib.nullcontext():
    runs.run(tmp_path / "run", "sft", events=events)
  assert book.said[-1] == ("close", fails)


def test_a_stage_that_begins_again_with_other_settings_has_a_new_run(
  runs, tmp_path, monkeypatch
):
  shown = {}

  class Place:
    def __init__(self, *about):
      pass

    def open(self, run_id, is_resumed):
      self.rows = shown.setdefault(run_id, [])

    def scalars(self, step, values):
      self.rows.append({"update_step": step} | values)

    def close(self, failed):
      pass

  def cut():
    raise KeyboardInterrupt

  monkeypatch.setattr(trackers_lib, "WandbRun", Place)
  changes = {"sft__update_steps": 2, "trackers__wandb": True}
  workdir = tmp_path / "run"
  with pytest.raises(KeyboardInterrupt):
    rate = {"sft__optim__learning_rate": 1.0}
    runs.run(workdir, "sft", events={("sft", 1): cut}, **rate, **changes)
  runs.run(workdir, "sft", **changes)
  before, after = shown.values()
  assert before[-1]["update_step"] == 0
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  assert after == [
    {name: x for name, x in row.items() if x is not None}
    for row in map(json.loads, lines)
  ]


def test_a_fingerprint_is_of_what_rows_follow_from(runs, monkeypatch):
  def fingerprint(**changes):
    return run._fingerprint(runs.config("srl", **changes))

  same = fingerprint()
  smaller = {"srl__trunks_per_micro_batch": 2, "model__remat": "none"}
  assert fingerprint(log_every=2, trackers__wandb=True, **smaller) == same
  found = {
    same,
    fingerprint(srl__optim__learning_rate=0.5),
    # Sessions count what they get of an update step.
    fingerprint(evaluate__suites_every_update_steps=5),
    fingerprint(rollouts__every_update_steps=3),
    fingerprint(trackers__texts=1),
  }
  monkeypatch.setattr(run.own_code, "checksums", lambda _: {"data.domain": 1})
  found.add(fingerprint())
  monkeypatch.setattr(run, "versions", lambda: {"jax": "0"})
  found.add(fingerprint())
  assert len(found) == 7


def test_a_run_shows_what_its_metrics_sum_up(whole):
  folder = whole.workdir / "tensorboard"
  numbers = {(step, tag): x for step, tag, x in shown(folder, "simple_value")}
  written = {
    (row["update_step"], name): value
    for row in whole.rows()
    for name, value in row.items()
    if name != "update_step" and value is not None
  }
  assert written.keys() <= numbers.keys()
  # `rows` leaves out metrics of the process; events are float32.
  for key, value in written.items():
    assert numbers[key] == np.float32(value)
  histograms = shown(folder, "histo")
  names = {tag for _, tag, _ in histograms}
  metrics = ("completion_tokens", "reward", "thought_chars")
  assert sorted(names) == [f"srl/samples/{x}" for x in metrics]
  for step, tag, histogram in histograms:
    metric = numbers[step, tag.replace("samples/", "")]
    # The metrics are float32 sums of some hundred values.
    mean = histogram.sum / histogram.num
    assert mean == pytest.approx(metric, rel=1e-5), (step, tag)
  # A batch may be full of groups that waited, with nothing sampled for it.
  sampled = {step for step, name in written if name == "srl/reward"}
  assert {step for step, _, _ in histograms} == sampled
  assert len(histograms) == 3 * len(sampled) > 6
  texts = [
    (step, tag.split("/")[2]) for step, tag, _ in shown(folder, "tensor")
  ]
  trained = [(16, "train"), (21, "train")]
  assert sorted(texts) == sorted(
    trained + [(i, "valid") for i in range(16, 22)]
  )


def test_rows_before_a_checkpoint_outlive_the_process(tmp_path):
  board = TensorBoard(tmp_path)
  board.begin(0, [])
  board.scalars(0, {"loss": 0.5})  # A first row would not wait long.
  board.scalars(1, {"loss": 0.25})
  mirror.copy_all()
  rows = [(0, "loss", 0.5), (1, "loss", 0.25)]
  assert shown(tmp_path, "simple_value") == rows
  board.close()


def test_a_second_stage_goes_on_in_the_same_event_file(tmp_path):
  board = TensorBoard(tmp_path)
  for step in range(2):
    board.begin(step, [])
    board.scalars(step, {"loss": 0.5})
  board.close()
  assert len(list(tmp_path.iterdir())) == 1
  assert shown(tmp_path, "simple_value") == [(i, "loss", 0.5) for i in (0, 1)]
