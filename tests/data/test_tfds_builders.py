# SPDX-License-Identifier: Apache-2.0
"""array_record files hold exactly the trajectories, and need no TensorFlow."""

import dataclasses
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

from srl_jax.data import tfds_builders
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.trajectory import Step, Trajectory
from tests.support.trajectories import AGENT, TITLED, sums

RICH = Trajectory(
  id="rich",
  domain="software",
  problem="Naïve 🙂\n\u2028\x00?",
  steps=(
    Step("", title="T"),
    Step("a", observation="", thought="b", is_target=False),
  ),
  metadata={"k": "v", "ü": ""},
)
# More than ten trajectories: sorting their numbers as text changes the order.
TRAIN = [*(sums(1 + i % 3, f"s{i}") for i in range(12)), TITLED, RICH]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("prepared")
  splits = {"train": TRAIN, "valid": [], "test": [AGENT]}
  tfds_builders.write(splits, folder, "made by a test")
  return folder


def test_what_is_written_is_read_back_in_order(folder):
  assert tfds_builders.read(folder) == {"train": TRAIN, "test": [AGENT]}
  report = load_trajectories(DataConfig("tfds", str(folder)))
  assert report.splits == {
    "train": TRAIN,
    "valid": [],
    "test": [AGENT],
    "pretrain": [],
  }


def test_steps_of_datasets_that_do_not_say_it_are_targets(folder):
  source = tfds.data_source(
    "expert_trajectories", split="train", data_dir=folder
  )
  example = source[13]
  del example["steps"]["is_target"]
  trajectory = tfds_builders._from_example(example)
  assert [step.is_target for step in trajectory.steps] == [True, True]


def test_tfds_reads_it_here_and_elsewhere_without_tensorflow(folder):
  source = tfds.data_source(
    "expert_trajectories", split="train", data_dir=folder
  )
  assert source[12]["problem"] == TITLED.problem.encode()
  code = (
    "import sys, tensorflow_datasets as tfds\n"
    "s = tfds.data_source('expert_trajectories', split='test',"
    f" data_dir={str(folder)!r})\n"
    "print(len(s), s[0]['id'].decode())\n"
    "print({'tensorflow', 'srl_jax', 'jax'} & set(sys.modules))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.splitlines() == ["1 agent", "set()"]


def test_an_existing_dataset_is_not_overwritten(folder):
  with pytest.raises(ValueError, match="exists already; remove it"):
    tfds_builders.write({"train": [TITLED]}, folder, "again")


def test_a_folder_with_no_or_two_datasets_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="holds 0 TFDS datasets"):
    tfds_builders.read(tmp_path)
  for name in ("a", "b"):
    tfds_builders.write({"train": [TITLED]}, tmp_path / name, "two")
  with pytest.raises(ValueError, match="holds 2 TFDS datasets") as error:
    tfds_builders.read(tmp_path)
  assert str(tmp_path / "b") in str(error.value)


def test_a_dataset_of_another_kind_is_refused(folder, tmp_path, monkeypatch):
  class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    url_infos = {}  # noqa: RUF012

    def _info(self):
      features = tfds.features.FeaturesDict({"id": tfds.features.Text()})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      yield 0, {"id": "x"}

  builder = Other(data_dir=str(tmp_path), file_format="array_record")
  builder.download_and_prepare(download_dir=tmp_path / "downloads")
  with pytest.raises(ValueError, match="it lacks answer, domain, metadata, pr"):
    tfds_builders.read(tmp_path)


def test_ids_that_differ_only_by_trajectory_survive(tmp_path):
  twins = [TITLED, dataclasses.replace(TITLED, id="other")]
  tfds_builders.write({"train": twins}, tmp_path, "twins")
  assert tfds_builders.read(tmp_path)["train"] == twins
