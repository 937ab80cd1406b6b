# SPDX-License-Identifier: Apache-2.0
"""Where a checkpoint is found: a folder, a run, or a name on the hub."""

import pytest

from srl_jax import loading
from srl_jax.storage import hub


def test_names_that_are_neither_folder_nor_on_the_hub(tmp_path, monkeypatch):
  assert hub.fetch(str(tmp_path)) == tmp_path
  with pytest.raises(ValueError, match=r"no checkpoint folder '\./nothing'"):
    hub.fetch("./nothing")

  def refuse(name, **patterns):
    raise OSError("no network")

  monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", refuse)
  with pytest.raises(
    ValueError, match=r"hub did not give it \(OSError: no network\); .*hf down"
  ):
    hub.fetch("Qwen/Qwen2.5-7B-Instruct")


def test_all_files_of_a_name_on_the_hub_are_of_one_commit(
  tmp_path, monkeypatch
):
  asked = []

  def download(name, *, revision, **_):
    asked.append((name, revision))
    return str(tmp_path / (revision or f"newest_{len(asked)}"))

  monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", download)
  monkeypatch.setattr(hub, "COMMITS", {})
  for source in ("a/b", "a/b", "a/b@f00"):
    hub.fetch(source)
  assert asked == [("a/b", None), ("a/b", "newest_1"), ("a/b", "f00")]
  assert hub.COMMITS == {"a/b": "newest_1", "a/b@f00": "f00"}
  # An adapter of it names the commit, too.
  assert hub.name_and_revision("a/b") == ("a/b", "newest_1")
  # A run keeps to what it has read, whatever was pushed meanwhile.
  (tmp_path / "commits.json").write_text('{"a/b": "old"}')
  loading.pin_commits(tmp_path)
  hub.fetch("a/b")
  assert asked[-1] == ("a/b", "old")


def test_the_folder_of_a_run_stands_for_its_model(tmp_path):
  (tmp_path / "versions.json").write_text("{}")
  with pytest.raises(ValueError, match=r"is not finished .*export --workdir="):
    hub.fetch(str(tmp_path))
  model = tmp_path / "model"
  assert hub.name_and_revision(str(tmp_path)) == (str(model), None)
  gone = "/data/user@host/model"
  assert hub.name_and_revision(gone) == (gone, None)
  model.mkdir()
  (model / "config.json").write_text("{}")
  assert hub.fetch(str(tmp_path)) == model
  assert hub.name_and_revision(str(tmp_path)) == (str(model), None)


def test_weights_that_a_repository_has_twice_are_fetched_once(
  tmp_path, monkeypatch
):
  # As those of Mistral: once for transformers, and once for its own software.
  weights_there = ["model-00001-of-00002.safetensors", "model.safetensors"]
  others = ["config.json", "tokenizer.json", "tokenizer.model"]
  twice = ["consolidated.safetensors", "consolidated.00.pth", "README.md"]

  def download(name, *, revision, **patterns):
    every = [*weights_there, *others, *twice]
    fetched.extend(
      hub.huggingface_hub.utils.filter_repo_objects(every, **patterns)
    )
    return str(tmp_path / name)

  monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", download)
  monkeypatch.setattr(hub, "COMMITS", {})
  fetched = []
  assert hub.fetch("a/b") == tmp_path / "a" / "b"
  assert fetched == [*weights_there, *others]
