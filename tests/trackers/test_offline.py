# SPDX-License-Identifier: Apache-2.0
"""Whole runs in the trackers themselves, without a network; read back.

Each test is left out where its library (extras tensorboard, wandb, trackio) is
not installed.
"""

import contextlib
import json
import sqlite3
import struct

import numpy as np
import pytest

from srl_jax.testing import experiment
from srl_jax.trackers.tracker import SHOWN


class PowerCutError(Exception):
  """Stands for whatever may end a process."""


def cut():
  raise PowerCutError


@pytest.fixture(params=["uninterrupted", "resumed"])
def tracked(request, runs, tmp_path):
  """Makes a run with a tracker; a power cut may end it once, in between.

  It is cut in update step 3, when the checkpoint is of 2, so the rows of step 2
  are written twice.
  """

  def make(name):
    outcome = experiment.RunOutcome(tmp_path / "run")
    changes = {f"trackers__{name}": True, "srl__update_steps": 4}
    if request.param == "resumed":
      with pytest.raises(PowerCutError):
        runs.run(
          outcome.workdir,
          "srl",
          events={("srl", 3): cut},
          outcome=outcome,
          srl__dynamic_sampling__enabled=False,
          **changes,
        )
    return runs.run(
      outcome.workdir, "srl", srl__dynamic_sampling__enabled=False, **changes
    )

  return make


def numbers(workdir):
  """[(update step, name, value)] of metrics.jsonl, sorted."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return sorted(
    (row["update_step"], name, value)
    for row in map(json.loads, lines)
    for name, value in row.items()
    if name != "update_step" and value is not None
  )


def sampled(workdir):
  """The update steps in which anything was sampled."""
  return [step for step, name, _ in numbers(workdir) if name == "srl/reward"]


def assert_same_numbers(ours, theirs):
  """All names and steps, each once; values but those of the process."""
  assert [x[:2] for x in ours] == [x[:2] for x in theirs]
  for (_, name, one), (_, _, other) in zip(ours, theirs, strict=True):
    if not name.endswith(("_s", "programs")):
      assert one == other, name


def records(path):
  """The records of wandb's file: blocks of 32 KiB, as LevelDB's logs."""
  from wandb.proto import wandb_internal_pb2

  data, at, parts = path.read_bytes(), 7, b""
  while at + 7 <= len(data):
    left = 32768 - at % 32768
    if left < 7:
      at += left
      continue
    _, length, kind = struct.unpack("<IHB", data[at : at + 7])
    parts += data[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):  # Whole, or the last part.
      yield wandb_internal_pb2.Record.FromString(parts)
      parts = b""


def test_wandb_has_every_number_and_sample_once(tracked, monkeypatch):
  pytest.importorskip("wandb")
  monkeypatch.setenv("WANDB_MODE", "offline")
  monkeypatch.setenv("WANDB_SILENT", "true")
  workdir = tracked("wandb").workdir
  state = json.loads((workdir / "trackers" / "wandb.json").read_text())
  # Each attempt has a file, of the same run.
  paths = sorted(workdir.glob(f"wandb/offline-run-*/run-{state['id']}.wandb"))
  assert len(paths) == len(list(workdir.glob("wandb/offline-run-*")))
  found = [x for path in paths for x in records(path)]
  exits = [x.exit for x in found if x.WhichOneof("record_type") == "exit"]
  # An attempt that was cut has failed.
  assert [x.exit_code for x in exits] == [1] * (len(paths) - 1) + [0]
  configs = [x.run for x in found if x.WhichOneof("record_type") == "run"]
  assert {x.project for x in configs} == {"srl_jax"}
  assert {x.display_name for x in configs} == {"run"}
  shown = {i.key: i.value_json for x in configs for i in x.config.update}
  assert json.loads(shown["srl"])["update_steps"] == 4
  values = [
    (x.history.step.num, list(item.nested_key), item.value_json)
    for x in found
    if x.WhichOneof("record_type") == "history"
    for item in x.history.item
  ]
  plain = [
    (step, key[0], json.loads(text))
    for step, key, text in values
    if len(key) == 1 and not key[0].startswith("_")
  ]
  # It has no step -1, that of what is measured before training.
  theirs = sorted((max(step, 0), *x) for step, *x in numbers(workdir))
  assert_same_numbers(sorted(plain), theirs)
  kinds = {
    (step, key[0], json.loads(text))
    for step, key, text in values
    if key[1:] == ["_type"]
  }
  histograms = [x[0] for x in kinds if x[1] == "srl/samples/reward"]
  assert sorted(histograms) == sampled(workdir)
  assert (0, "srl/samples/train", "table-file") in kinds
  assert {x[0] for x in kinds if x[1] == "srl/samples/valid"} == {0, 1, 2, 3}
  table = next(workdir.glob("wandb/*/files/media/table/srl/samples/valid*"))
  table = json.loads(table.read_text())
  assert table["columns"] == list(SHOWN)
  assert len(table["data"]) == 5


def test_trackio_has_every_number_and_sample_once(
  tracked, monkeypatch, tmp_path_factory
):
  # It reads this once, when it is imported.
  folder = tmp_path_factory.getbasetemp() / "trackio"
  monkeypatch.setenv("TRACKIO_DIR", str(folder))
  pytest.importorskip("trackio")
  workdir = tracked("trackio").workdir
  state = json.loads((workdir / "trackers" / "trackio.json").read_text())
  with contextlib.closing(sqlite3.connect(folder / "srl_jax.db")) as database:
    rows = database.execute(
      "SELECT run_id, step, metrics FROM metrics WHERE run_name = ?",
      (f"run-{state['id']}",),
    ).fetchall()
  assert len({run_id for run_id, *_ in rows}) == 1
  values = [
    (step, name, value)
    for _, step, text in rows
    for name, value in json.loads(text).items()
  ]
  plain = [x for x in values if not isinstance(x[2], dict)]
  assert_same_numbers(sorted(plain), numbers(workdir))
  kinds = [(s, n, x["_type"]) for s, n, x in values if isinstance(x, dict)]
  # Nothing twice, and nothing left out.
  for name in ("reward", "completion_tokens"):
    histograms = [x for x in kinds if x[1] == f"srl/samples/{name}"]
    assert [x[0] for x in histograms] == sampled(workdir)
    assert {x[2] for x in histograms} == {"trackio.histogram"}
  valid = [x for x in kinds if x[1] == "srl/samples/valid"]
  assert [x[0] for x in valid] == [0, 1, 2, 3]
  assert {x[2] for x in valid} == {"trackio.markdown"}


def test_tensorboard_reads_every_number_and_sample_once(tracked):
  # The reader that TensorBoard itself uses; all it reads are tensors.
  reader = pytest.importorskip(
    "tensorboard.backend.event_processing.plugin_event_accumulator"
  )
  tensor_util = pytest.importorskip("tensorboard.util.tensor_util")
  workdir = tracked("tensorboard").workdir
  events = reader.EventAccumulator(
    str(workdir / "tensorboard"), {reader.TENSORS: 0}
  ).Reload()
  plain = [
    (event.step, name, float(tensor_util.make_ndarray(event.tensor_proto)))
    for name in events.Tags()["tensors"]
    if "/samples/" not in name
    for event in events.Tensors(name)
  ]
  theirs = [(s, n, float(np.float32(x))) for s, n, x in numbers(workdir)]
  assert_same_numbers(sorted(plain), theirs)
  for name in ("reward", "completion_tokens"):
    found = events.Tensors(f"srl/samples/{name}")
    assert [event.step for event in found] == sampled(workdir)
  texts = events.Tensors("srl/samples/valid/text_summary")
  assert [event.step for event in texts] == [0, 1, 2, 3]
  assert b"**reward" in texts[0].tensor_proto.string_val[0]
