# SPDX-License-Identifier: Apache-2.0
"""Tests of paths on gs://, on an emulator of buckets."""

import json
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import safetensors.numpy

from srl_jax import metrics, storage
from srl_jax.data import folders, readers, writing
from srl_jax.data.readers import DataConfig
from srl_jax.models.hf_remote import RemoteTensors
from srl_jax.processes import failures
from srl_jax.rollout import record
from srl_jax.storage import files, lease, mirror, paths
from srl_jax.storage.workdir import locked
from srl_jax.testing import experiment
from srl_jax.tokenizers import TokenizerConfig, make_tokenizer
from srl_jax.trackers.tensorboard import TensorBoard

HttpError = pytest.importorskip("gcsfs.retry").HttpError
# What libraries of Google's do is not ours; sockets are closed at the end.
pytestmark = [
  pytest.mark.usefixtures("bucket"),
  pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning"
  ),
]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_file_is_written_whole_and_read_back(folder):
  files.write_json(folder / "a" / "b.json", {"x": 1})
  assert json.loads((folder / "a" / "b.json").read_text()) == {"x": 1}
  assert [str(x) for x in storage.list_files(folder)] == [f"{folder}/a/b.json"]
  assert storage.size(folder / "a" / "b.json") == len('{\n  "x": 1\n}\n')


def test_a_url_is_absolute_already(folder):
  assert str(storage.absolute(folder)) == str(folder)


def test_a_bucket_that_is_not_there_is_named_with_what_to_type():
  with pytest.raises(ValueError, match=r"no bucket gs://none; .*buckets"):
    storage.path("gs://none/run")


@pytest.mark.parametrize(
  ("error", "typed", "passes"),
  [
    (OSError("Forbidden: no access"), "auth application-default", False),
    (HttpError({"code": 401, "message": "who"}), "auth appl", False),
    (HttpError({"code": 503, "message": "busy"}), "gcloud storage ls", True),
    (TimeoutError(), "gcloud storage ls", True),
  ],
)
def test_a_bucket_that_cannot_be_used_is_named_with_what_to_type(
  error, typed, passes, folder, monkeypatch
):
  def call(*_, **__):
    raise error

  monkeypatch.setattr(paths._gcs(), "call", call)
  with pytest.raises(ValueError, match=typed) as got:
    storage.path("gs://closed/run")
  assert "\n" not in str(got.value)
  assert failures.may_pass(got.value) == passes
  # The lock is what a run reads first.
  monkeypatch.setattr(storage, "read_generation", call)
  with pytest.raises(ValueError, match=typed) as got:
    lease.Lease(folder / "run.lock", "1 here", ValueError)
  assert failures.may_pass(got.value) == passes


def test_without_the_right_to_ask_for_the_bucket_no_run_begins(
  folder, monkeypatch
):
  ask = paths._gcs().call

  def call(method, what, *arguments, **options):
    if what == "b/{}":
      raise OSError("Forbidden: b\nx does not have storage.buckets.get access")
    return ask(method, what, *arguments, **options)

  monkeypatch.setattr(paths._gcs(), "call", call)
  with (
    pytest.raises(
      ValueError, match=r"storage\.buckets\.get .* Storage Legacy Bucket Reader"
    ),
    locked(folder),
  ):
    pass
  assert not (folder / "run.lock").exists()


@pytest.mark.parametrize("text", ["gs:/a/b", "gs:///a"])
def test_a_url_with_other_slashes_is_refused(text):
  with pytest.raises(ValueError, match="gs://BUCKET/FOLDER"):
    storage.path(text)


def test_without_gcsfs_a_message_says_what_to_install(folder):
  program = (
    "import sys; sys.modules['gcsfs'] = None\n"
    "from srl_jax import storage\n"
    f"storage.path('{folder}')"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True
  )
  assert "pip install 'srl_jax[gcs]'" in done.stderr.splitlines()[-1]


def test_what_another_process_wrote_is_seen_at_once(folder):
  (folder / "one").write_text("1")
  assert not (folder / "two").exists()
  assert len(list(folder.iterdir())) == 1
  program = (
    f"from srl_jax import storage\nstorage.path('{folder}/two').write_text('2')"
  )
  subprocess.run([sys.executable, "-c", program], check=True)
  assert (folder / "two").exists()
  assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("killed_at", ["cp_file", "rm_file"])
def test_a_move_that_was_killed_goes_on(killed_at, folder, monkeypatch):
  names = ["config.json", "a/1.safetensors", "a/2.safetensors"]
  for name in names:
    (folder / "model" / name).write_text(name)
  real, calls = getattr(paths._gcs(), killed_at), []

  def call(*arguments):
    calls.append(arguments)
    if len(calls) == 2:
      raise KeyboardInterrupt
    real(*arguments)

  monkeypatch.setattr(paths._gcs(), killed_at, call)
  with pytest.raises(KeyboardInterrupt):
    storage.move(folder / "model", folder / "old")
  storage.move(folder / "model", folder / "old")
  assert not (folder / "model").exists()
  found = {str(x): x.read_text() for x in storage.list_files(folder)}
  assert found == {f"{folder}/old/{name}": name for name in names}


def test_a_second_version_of_a_file_is_copied_again(folder):
  (folder / "tokenizer.json").write_text("first")
  first = storage.local_copy(str(folder / "tokenizer.json"))
  assert first.read_text() == "first"
  assert storage.local_copy(folder / "tokenizer.json") == first
  (folder / "tokenizer.json").write_text("other")
  assert storage.local_copy(folder / "tokenizer.json").read_text() == "other"


def test_the_copy_of_a_folder_leaves_its_weights_out(folder):
  for name in ("a.json", "b.safetensors", "chat_templates/c.jinja"):
    (folder / name).write_text(name)
  copy = storage.local_copy(folder)
  names = {x.relative_to(copy).as_posix() for x in storage.list_files(copy)}
  assert names == {"a.json", "chat_templates/c.jinja"}


def test_metrics_and_event_files_are_there_after_a_copy(folder, monkeypatch):
  board = TensorBoard(folder / "tensorboard")
  with metrics.MetricWriter(folder) as writer:
    board.begin(0, [])
    for step in range(3):
      writer.write(step, {"loss": step})
      board.scalars(step, {"loss": step})
    assert not (folder / "metrics.jsonl").exists()
    mirror.copy_all()
    assert len(metrics.read_rows(folder / "metrics.jsonl")) == 3
    [event] = (folder / "tensorboard").iterdir()
    before = storage.size(event)
    assert before > 3 * 20  # The rows, not the head of the file alone.
    with monkeypatch.context() as patch:
      patch.setattr(storage, "upload", None)  # Nothing has changed.
      mirror.copy_all()
    writer.write(3, {"loss": 3})
  board.close()
  assert len(metrics.read_rows(folder / "metrics.jsonl")) == 4
  assert len((folder / "metrics.csv").read_text().splitlines()) == 5


def test_a_resumed_run_keeps_the_rows_before_its_checkpoint(folder):
  with metrics.MetricWriter(folder) as writer:
    for step in range(4):
      writer.write(step, {"loss": step})
  with metrics.MetricWriter(folder, first_step=2) as writer:
    writer.write(2, {"loss": 20})
  rows = metrics.read_rows(folder / "metrics.jsonl")
  assert [row["loss"] for row in rows] == [0, 1, 20]


def test_rows_go_up_on_a_timer_also_after_a_failure(folder, monkeypatch):
  tries, upload = [], storage.upload

  def upload_later(*files):
    tries.append(files)
    if len(tries) == 1:
      raise OSError("busy")
    upload(*files)

  monkeypatch.setattr(storage, "upload", upload_later)
  monkeypatch.setattr(mirror, "_EVERY_S", 0.05)
  with metrics.MetricWriter(folder) as writer:
    writer.write(0, {"loss": 1})
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
      if metrics.read_rows(folder / "metrics.jsonl"):
        break
      time.sleep(0.05)
    assert len(metrics.read_rows(folder / "metrics.jsonl")) == 1


@pytest.fixture
def tensors(tmp_path, folder):
  rng = np.random.default_rng(0)
  values = {
    "a": rng.normal(size=(8, 6)).astype(np.float32),
    "b": rng.normal(size=(5,)).astype(jax.numpy.bfloat16),
    "c": rng.normal(size=(2, 3, 4)).astype(np.float16),
  }
  safetensors.numpy.save_file(values, tmp_path / "m.safetensors")
  storage.upload(tmp_path / "m.safetensors", folder / "m.safetensors")
  return values, RemoteTensors(folder / "m.safetensors")


def test_parts_of_remote_tensors_are_those_of_the_file(tensors):
  values, remote = tensors
  assert set(remote.keys()) == set(values)
  for name, value in values.items():
    part = remote.get_slice(name)
    assert part.get_shape() == list(value.shape)
    cuts = [tuple(slice(None) for _ in value.shape)]
    cuts += [(slice(1, 4), *cuts[0][1:]), (slice(0, 0), *cuts[0][1:])]
    cuts += [tuple(slice(1, 3) for _ in value.shape)]
    for cut in cuts:
      assert part[cut].dtype == value.dtype
      assert part[cut].tobytes() == value[cut].tobytes()


def test_only_the_rows_that_are_asked_for_are_read(tensors, monkeypatch):
  _, remote = tensors
  asked = []
  read = storage.read_range
  monkeypatch.setattr(
    storage,
    "read_range",
    lambda path, *at: asked.append(at[1] - at[0]) or read(path, *at),
  )
  remote.get_slice("a")[2:5, 0:1]
  assert asked == [3 * 6 * 4]


@pytest.mark.parametrize("kept", [0, 7, 60, -3])
def test_a_remote_file_that_was_cut_off_is_refused(tensors, folder, kept):
  data = (folder / "m.safetensors").read_bytes()
  (folder / "cut.safetensors").write_bytes(data[:kept])
  with pytest.raises(ValueError):
    RemoteTensors(folder / "cut.safetensors")


def test_data_are_read_from_a_file_and_a_folder(folder, tmp_path):
  local = experiment.write_data(tmp_path / "train.jsonl")
  ours = readers.load_trajectories(DataConfig("jsonl", local)).trajectories
  storage.upload(tmp_path / "train.jsonl", folder / "train.jsonl")
  for path in (folder, folder / "train.jsonl"):
    config = DataConfig("jsonl", str(path))
    assert readers.load_trajectories(config).trajectories == ours
  parts, _ = folders.parts_of(folder)
  assert [part.split for part in parts] == ["train"]


@pytest.mark.parametrize("form", ["tfds", "jsonl"])
def test_a_prepared_dataset_is_written_and_read(folder, tmp_path, form):
  local = experiment.write_data(tmp_path / "train.jsonl", 8)
  (tmp_path / "train.jsonl").open("a").write("no record\n")
  ours = readers.load_trajectories(DataConfig("jsonl", local))
  writing.write(ours, folder, form, "made for a test")
  again = readers.load_trajectories(DataConfig(form, str(folder)))
  assert again.splits == ours.splits
  assert (folder / "rejects.jsonl").exists()
  with pytest.raises(ValueError, match="exists already"):
    writing.check_free(folder, form)


def test_a_tokenizer_is_trained_into_a_bucket_and_read_again(folder):
  config = TokenizerConfig(
    "sentencepiece", str(folder / "t.model"), train_vocab_size=300
  )
  made = make_tokenizer(config, ["some text to learn from"])
  assert (folder / "t.model").exists()
  again = make_tokenizer(config)
  assert again.encode("some text") == made.encode("some text")


def test_files_of_rollouts_are_written_listed_and_read(folder):
  recorder = record.Recorder(folder, record.RolloutsConfig())
  row = dict.fromkeys(record.SCHEMA) | {"text": "a"}
  del row["stage"], row["split"], row["update_step"]
  recorder.write("srl", "train", 3, [row])
  [file] = record.list_files(folder)
  assert file.update_step == 3
  assert record.read_file(file.path)[0]["text"] == "a"
  recorder.drop_from("srl", 3)
  assert not record.list_files(folder)


def test_the_config_of_a_folder_is_copied_last(folder, tmp_path, monkeypatch):
  for name in ("config.json", "a.json", "z.safetensors"):
    (tmp_path / name).write_text(name)
  order = []
  upload = storage.upload
  monkeypatch.setattr(
    paths, "upload", lambda a, b: order.append(a.name) or upload(a, b)
  )
  storage.upload_folder(tmp_path, folder)
  assert order == ["a.json", "z.safetensors", "config.json"]
