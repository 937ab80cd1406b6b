# SPDX-License-Identifier: Apache-2.0
"""What a run may have other than before when it goes on in its folder."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy

from srl_jax import config as config_lib
from srl_jax import ownership
from srl_jax.evaluate.journal import read_answers
from srl_jax.loading import read_run_config, with_kept_tokenizer
from srl_jax.storage.workdir import RefusedError
from srl_jax.testing import experiment


class CutError(Exception):
  """Stands for whatever may end a process."""


def cut():
  raise CutError


def inputs(folder):
  """Changes of a config whose inputs are in a folder."""
  model = str(folder / "model")
  return {
    "weights": model,
    "tokenizer__kind": "huggingface",
    "tokenizer__path": model,
    "tokenizer__train_vocab_size": 0,
    "data__path": str(folder / "data.jsonl"),
    "evaluate__suites": (f"copies={folder / 'copies.jsonl'}",),
    "evaluate__suites_folder": str(folder),
    "evaluate__suite_samples": 0,
    "evaluate__suite_tokens": 4,
    "evaluate__modes": (),
    "sft__update_steps": 4,
    "sft__validate_every": 0,
  }


@pytest.fixture(scope="module")
def begun(runs, whole):
  """A run that was cut after its first checkpoint, and its inputs."""
  folder = runs.folder / "begun"
  here = folder / "inputs"
  shutil.copytree(whole.workdir / "model", here / "model")
  experiment.write_data(here / "data.jsonl")
  (here / "copies.jsonl").write_text(
    "".join(f'{{"problem": "{n}: 1", "answer": "1"}}\n' for n in range(3))
  )
  with pytest.raises(CutError):
    runs.run(folder / "run", "sft", events={("sft", 2): cut}, **inputs(here))
  return folder


@pytest.fixture
def moved(begun, tmp_path):
  """The same run, whose inputs have gone elsewhere."""
  shutil.copytree(begun / "run", tmp_path / "run")
  shutil.copytree(begun / "inputs", tmp_path / "elsewhere")
  return tmp_path / "elsewhere"


def test_inputs_may_lie_elsewhere_with_the_same_contents(
  runs, begun, moved, tmp_path, capsys
):
  run = tmp_path / "run"
  runs.run(run, "sft", **inputs(moved))
  said = capsys.readouterr().out
  assert "sft: resuming after update step 2 of 4" in said
  old = begun / "inputs"
  for field, name in (
    ("weights", "model"),
    ("tokenizer.path", "model"),
    ("data.path", "data.jsonl"),
    ("evaluate.suites_folder", ""),
  ):
    line = (
      f"config.{field} was {str(old / name)!r} and is {str(moved / name)!r}; "
      "the contents are the same, so the run goes on\n"
    )
    assert line in said
  config = json.loads((run / "config.json").read_text())
  assert config["weights"] == str(moved / "model")
  # It is said once, and the old inputs are no longer needed.
  runs.run(run, "sft", **inputs(moved))
  assert "the contents are the same" not in capsys.readouterr().out
  # Nor may they change where they are, between two moments.
  other_suite(moved)
  with pytest.raises(RefusedError, match="the suite copies changed since"):
    runs.run(run, "sft", **inputs(moved))


def test_a_file_of_a_tokenizer_may_have_another_name(runs, begun, tmp_path):
  kept = tmp_path / "a.model"
  shutil.copy(runs.folder / "whole" / "tokenizer.model", kept)
  changes = inputs(begun / "inputs") | {
    "tokenizer__kind": "sentencepiece",
    "weights": "random",
    "evaluate__suites": (),
  }
  run = tmp_path / "run"
  with pytest.raises(CutError):
    changes["tokenizer__path"] = str(kept)
    runs.run(run, "sft", events={("sft", 2): cut}, **changes)
  changes["tokenizer__path"] = str(kept.rename(tmp_path / "b.model"))
  runs.run(run, "sft", **changes)
  [left] = (run / "tokenizer").iterdir()
  config = with_kept_tokenizer(read_run_config(run), run)
  assert config.tokenizer.path == str(left) == str(run / "tokenizer/a.model")


def other_weights(here):
  path = here / "model" / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  name = min(tensors)
  tensors[name] = np.nextafter(tensors[name], 1)
  safetensors.numpy.save_file(tensors, path)


def other_tokenizer(here):
  path = here / "model" / "generation_config.json"
  path.write_text(path.read_text() + "\n")


def other_data(here):
  """Changes a thought in one of the trajectories to train on."""
  path = here / "data.jsonl"
  records = [json.loads(line) for line in path.read_text().splitlines()]
  records[0]["steps"][0]["thought"] = ","
  path.write_text("".join(json.dumps(x) + "\n" for x in records))


def other_suite(here):
  path = here / "copies.jsonl"
  path.write_text(path.read_text().replace("2: 1", "2: 3"))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (other_weights, "the weights in .*/elsewhere/model changed since .*/run w"),
    (other_tokenizer, r"the tokenizer in .* \(not the same: generation_conf"),
    (other_data, "the train split changed since"),
    (other_suite, r"the suite copies changed since .* \(it had 3 problems, "),
  ],
)
def test_inputs_elsewhere_with_other_contents_are_refused(
  runs, begun, moved, tmp_path, change, message
):
  run = tmp_path / "run"
  change(moved)
  with pytest.raises(RefusedError, match=message):
    runs.run(run, "sft", **inputs(moved))
  # The old command still belongs to the folder.
  config = json.loads((run / "config.json").read_text())
  assert config["weights"] == str(begun / "inputs" / "model")


def test_other_inputs_are_another_configuration(runs, moved, tmp_path):
  run, changes = tmp_path / "run", inputs(moved)
  for other in (
    {"weights": "random"},
    {"evaluate__suites": (str(moved / "data.jsonl"),)},
  ):
    with pytest.raises(RefusedError, match="a run of another configuration"):
      runs.run(run, "sft", **changes | other)
  # Nothing is kept that its contents could be compared with.
  (run / "weights.json").unlink()
  with pytest.raises(RefusedError, match=r"config\.weights was "):
    runs.run(run, "sft", **changes)


def test_suites_may_be_answered_more_or_less_often(runs, moved, tmp_path):
  run, changes = tmp_path / "run", inputs(moved)
  changes["evaluate__suites_problems"] = 32
  runs.run(run, "sft", evaluate__suites_every_update_steps=1, **changes)
  suites = run / "suites"
  # It goes on with update step 2, which had no suites before.
  assert {x.name for x in suites.iterdir()} == {
    *("before", "sft_2", "sft_3", "sft_4", "after_sft")
  }
  assert len(read_answers(suites / "sft_3")) == 3
  assert "sft/suite_copies" in (run / "metrics.csv").read_text()
  # The share of other problems is another number.
  changes["evaluate__suites_problems"] = 2
  with pytest.raises(RefusedError, match="suites_problems was 32 and is 2"):
    runs.run(run, "sft", **changes)


def test_a_suite_that_is_answered_otherwise_names_the_folder_to_remove(
  runs, moved, tmp_path
):
  run = tmp_path / "run"
  facts = run / "suites" / "after_sft" / "evaluation.json"
  facts.parent.mkdir()
  facts.write_text("{}")
  with pytest.raises(ValueError, match=r"in a run, remove that folder") as got:
    runs.run(run, "sft", **inputs(moved))
  assert str(got.value).startswith(f"{facts.parent} holds another evaluation (")
  shutil.rmtree(facts.parent)
  assert "after sft" in runs.run(run, "sft", **inputs(moved)).results


@pytest.mark.parametrize(
  ("files", "found"),
  [
    (["evaluation.json", "results.json"], "has evaluation.json, results.json "),
    (["problems.jsonl"], "has problems.jsonl and no config.json"),
  ],
)
def test_a_folder_of_something_else_is_no_workdir(runs, tmp_path, files, found):
  for name in files:
    (tmp_path / name).write_text("{}")
  with pytest.raises(RefusedError) as got:
    runs.run(tmp_path, "sft")
  said = str(got.value)
  assert said.startswith(f"--workdir={tmp_path} {found}")
  assert said.endswith("give this run a --workdir of its own")
  assert "\n" not in said
  left = {x.name for x in pathlib.Path(tmp_path).iterdir()}
  assert left == {*files, "run.lock"}


def test_a_models_folder_is_no_workdir(runs, whole, tmp_path):
  shutil.copytree(whole.workdir / "model", tmp_path / "model")
  with pytest.raises(
    RefusedError, match=r"has the config\.json of a model, so"
  ):
    runs.run(tmp_path / "model", "sft")


def test_a_shorter_run_is_refused_with_a_way_out(runs, moved, tmp_path):
  changes = inputs(moved) | {"sft__update_steps": 3}
  with pytest.raises(RefusedError) as got:
    runs.run(tmp_path / "run", "sft", **changes)
  assert str(got.value).endswith(
    "; a run does not end sooner, as its rates may depend on sft.update_steps "
    "and its best parameters may be of a later one: to end it now, stop it, "
    "and write the best that it has by srl_jax export "
    f"--workdir={tmp_path / 'run'} --out=DIR"
  )


@pytest.mark.parametrize(
  ("section", "values", "words"),
  [
    (
      "loss",
      {"surrogate": "truncated", "clip_high": 0.28},
      r"loss: clip_high=0\.28 has no effect with surrogate='truncated'; leave",
    ),
    (
      "loss",
      {"surrogate": "imitation", "divide_by_group_std": False},
      "loss: divide_by_group_std=False has no effect with surrogate='imitat",
    ),
    (
      "reward",
      {"broken_format_reward": -2.0},
      r"reward: broken_format_reward=-2\.0 has no effect, because an incomp",
    ),
  ],
)
def test_only_a_new_run_is_refused_what_it_does_not_read(
  section, values, words, tmp_path
):
  changed = config_lib.default_config()
  changed.stages = ("rlvr",)
  changed.rlvr[section].update(values)
  config = config_lib.to_config(changed)
  with pytest.raises(ValueError, match=rf"^config\.rlvr\.{words}"):
    ownership.claim(config, tmp_path)
  assert not any(tmp_path.iterdir())
  # One that an earlier version began is read, and goes on by its command.
  written = json.dumps(ownership.resolved(config))
  (tmp_path / "config.json").write_text(written)
  (tmp_path / "results.json").write_text("{}")
  assert ownership.claim(config, tmp_path) == ownership.Claim()
  assert read_run_config(tmp_path) == config
