# SPDX-License-Identifier: Apache-2.0
"""What a new user gets wrong ends in one clear message and status 2."""

import json
import pathlib
import re

import pytest

from srl_jax.testing import experiment
from tests.support import checkpoints
from tests.support import families as model_families
from tests.support.commands import error_of, serve


@pytest.fixture(scope="module")
def command(runs):
  environment = runs.environment()
  with serve("srl_jax.main", runs.folder / "said", environment) as server:
    yield server


@pytest.fixture
def refused(command, runs, tmp_path):
  """Asserts that a command line is refused; returns the message."""

  def run(*arguments, preset="srl", workdir=tmp_path / "run"):
    config = f"--config={experiment.__file__}:{preset}"
    data = f"--config.data.path={runs.data}"
    status, said = command(config, data, f"--workdir={workdir}", *arguments)
    return error_of(status, said, wanted=2)

  return run


def test_a_misspelt_field_is_answered_by_the_nearest(refused):
  assert refused("--config.srl.update_stepz=3").startswith(
    "config.srl.update_stepz does not exist; did you mean "
    "config.srl.update_steps? The fields of config.srl are: update_steps,"
  )
  said = refused(preset="srl,srl.update_stepz=3")
  assert said.startswith("config.srl.update_stepz does not exist; did you mean")
  said = refused("--config.slr.update_steps=3")
  assert "config.slr does not exist; did you mean config.srl?" in said


def test_a_misspelt_preset_is_answered_by_the_nearest(refused):
  assert refused(preset="slr") == (
    "there is no preset 'slr'; choose one of sft, srl, rlvr, episodes, sft_srl "
    "(did you mean 'srl'?)"
  )


def test_a_value_of_the_wrong_type_says_what_is_allowed(refused):
  wrong = "config.srl.update_steps got 'many' of type str, allowed is int"
  assert refused("--config.srl.update_steps=many") == wrong
  assert refused(preset="srl,srl.update_steps=many") == wrong
  assert refused("--config.srl.update_steps=2.5").startswith(
    "config.srl.update_steps got 2.5"
  )
  said = refused("--config.stages=sft,slr")
  assert said.startswith("config.stages[1] got 'slr'")
  assert said.endswith("did you mean 'srl'?")


def test_a_field_of_a_stage_that_does_not_run_is_refused(refused):
  wrong = (
    "config.rlvr.optim.beta1 is set, but the stage 'rlvr' does not run: "
    "config.stages is ('srl',); set a field of srl, or add the stage to "
    "config.stages"
  )
  assert refused("--config.rlvr.optim.beta1=0.8") == wrong
  assert refused(preset="srl,rlvr.optim.beta1=0.8") == wrong


def test_a_missing_experiment_says_where_it_was_looked_for(command):
  said = error_of(*command("--config=experiments/maths.py:srl"), wanted=2)
  assert said.startswith("--config=experiments/maths.py:srl: there is no file")
  assert error_of(*command(), wanted=2).startswith(
    "which experiment? For example --con"
  )


def test_a_mistake_in_an_experiment_file_is_named_by_its_line(
  command, tmp_path
):
  path = tmp_path / "mine.py"
  path.write_text(
    "from srl_jax import config\n"
    "def get_config(argument=None):\n"
    "  c = config.default_config()\n"
    "  c.srl.update_stepz = 3\n"
    "  return c\n"
  )
  said = error_of(*command(f"--config={path}"), wanted=2)
  assert said.startswith(f"{path} line 4: AttributeError: ")
  assert 'Did you mean "update_steps" instead of "update_stepz"?' in said
  path.write_text("def get_config(argument=None):\n  pass\n")
  assert "returned None; end it with 'return c'" in error_of(
    *command(f"--config={path}"), wanted=2
  )
  path.write_text("config = 3\n")
  assert "KeyError: 'get_config'; an experiment file defines" in error_of(
    *command(f"--config={path}"), wanted=2
  )


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--confg=x"], "Unknown command line flag 'confg'. Did you mean: config"),
    (["--num_processes=two"], "flag --num_processes=two: invalid literal"),
  ],
)
def test_a_misspelt_flag_is_answered_by_the_nearest(command, arguments, said):
  status, output = command(*arguments)
  assert status == 1
  assert said in output
  assert "Traceback" not in output


def test_words_that_are_no_options_are_named(refused):
  assert refused("steps=3").startswith("'steps=3' is not understood")
  assert refused("--config.srl.update_steps", "3").startswith(
    "'3' is not understood"
  )
  said = refused("--num_processes=2", "--process_id=0")
  assert said.startswith("--num_processes and --process_id need --coordinator")


def test_data_that_cannot_be_read_are_named(refused, tmp_path):
  missing = tmp_path / "missing.jsonl"
  said = refused(f"--config.data.path={missing}")
  assert said.startswith(f"data.path='{missing}' does not exist")
  empty = tmp_path / "empty.jsonl"
  empty.touch()
  said = refused(f"--config.data.path={empty}")
  assert said == f"{empty} holds no records; one JSON object per line"
  broken = tmp_path / "broken.jsonl"
  broken.write_text('{"problem": "1 + 1", "step": ["2"]}\n')
  said = refused(f"--config.data.path={broken}")
  assert f"1 of 1 records of {broken} cannot be used" in said


def test_too_few_data_are_named(refused, tmp_path):
  few = experiment.write_data(tmp_path / "few.jsonl", count=10)
  said = refused(f"--config.data.path={few}")
  assert said.startswith("10 trajectories (10 different problems) are too few")
  said = refused("--config.data.valid_size=0")
  assert "the valid split" in said
  assert "c.data.valid_size" in said


def test_a_tokenizer_larger_than_the_model_is_refused(refused):
  said = refused("--config.model.vocab_size=100")
  assert said.startswith("the tokenizer has 2")
  assert "the model only 100 (c.model.vocab_size)" in said


def of_checkpoint(folder):
  """The flags that name a checkpoint's tokenizer and its chat template."""
  tokenizer = "--config.tokenizer"
  yield from (f"{tokenizer}.kind=huggingface", f"{tokenizer}.path={folder}")
  yield from (f"{tokenizer}.train_vocab_size=0", "--config.template=chat")


def test_a_tokenizer_of_another_model_is_refused(refused, families):
  qwen, gemma = families("qwen2_5"), families("gemma2")
  said = refused(*of_checkpoint(qwen), f"--config.weights={gemma}")
  assert said == (
    f"c.weights='{gemma}' has a tokenizer of its own, in which id 0 is "
    f"'<pad>'; in the tokenizer of the run (c.tokenizer.path='{qwen}') it is "
    f"'!'. Set c.tokenizer.kind='huggingface' and c.tokenizer.path='{gemma}'"
  )


def test_a_chat_without_a_template_is_refused(refused, tmp_path):
  base = checkpoints.write(tmp_path / "base", "qwen2_5", chat_template=None)
  said = refused(*of_checkpoint(base))
  assert said.startswith(f"{base} has no chat template (chat_template in ")
  assert said.endswith("as base models have none; set c.template='text'")


def test_prompts_that_no_other_software_makes_are_warned_of(
  command, runs, tmp_path, families
):
  bad = tmp_path / "bad.jsonl"
  texts = pathlib.Path(runs.data).read_text()
  bad.write_text(texts.replace('"problem": "', '"problem": "<eos>'))
  status, said = command(
    f"--config={experiment.__file__}:srl",
    f"--config.data.path={bad}",
    f"--workdir={tmp_path / 'run'}",
    *of_checkpoint(families("gemma3")),
    # Ends the run before anything is compiled.
    "--config.model.max_positions=12",
  )
  assert status == 2
  warning, error = said.splitlines()[:2]
  assert re.match(
    r"warning: srl: (\d+) of \1 prompts have other ids .* because of a control "
    r"token's name in the text: copy-\d+/0 has '.*' for '<eos>'$",
    warning,
  ), warning
  assert error.startswith("error: srl needs a context of ")


def test_a_context_longer_than_the_models_is_refused(refused):
  said = refused("--config.model.max_positions=12")
  assert said.startswith("srl needs a context of ")
  assert "the model was made for 12 (c.model.max_positions)" in said
  assert "set c.srl.trunks.max_trunk_tokens" in said


def test_a_group_of_one_is_refused(refused):
  said = refused("--config.srl.sampling.samples=1")
  assert "a group needs at least 2; set samples=8" in said


def test_a_batch_that_does_not_divide_is_refused(refused):
  said = refused("--config.mesh.data=3")
  assert said.startswith(
    "mesh {'data': 3, 'fsdp': 1, 'tensor': 1} does not fit"
  )
  said = refused("--config.srl.sampling.trunks_per_round=64")
  assert said.startswith(
    "c.srl.sampling.trunks_per_round=64 trunks are drawn together, and 48 are "
    "left to train on (of 48 trajectories); set "
    "c.srl.sampling.trunks_per_round to 48 or less"
  )


def test_a_folder_of_another_run_is_refused(refused, tmp_path):
  workdir = tmp_path / "theirs"
  workdir.mkdir()
  saved = json.dumps({"seed": 1, "name": "theirs"})
  (workdir / "config.json").write_text(saved)
  (workdir / "results.json").write_text("{}")
  said = refused(workdir=workdir)
  assert said.startswith(f"{workdir} holds a run of another configuration: ")
  assert "give this run a --workdir of its own" in said
  assert (workdir / "config.json").read_text() == saved


def test_weights_that_are_not_there_are_refused(refused, tmp_path):
  missing = tmp_path / "missing"
  said = refused(f"--config.weights={missing}")
  assert said.startswith(f"there is no checkpoint folder '{missing}'; give a")
  file = tmp_path / "weights.safetensors"
  file.write_bytes(b"")
  said = refused(f"--config.weights={file}")
  assert said.startswith(f"there is no checkpoint folder '{file}'; give a")


def test_a_checkpoint_of_another_architecture_is_refused(refused, tmp_path):
  folder = model_families.write(tmp_path / "mixtral", "llama")
  config = model_families.CONFIGS["llama"] | {"model_type": "mixtral"}
  (folder / "config.json").write_text(json.dumps(config))
  said = refused(f"--config.weights={folder}")
  assert said.startswith(
    f"{folder / 'config.json'}: model_type 'mixtral' (architectures None) is "
    "not supported; there are qwen2,"
  )


def test_a_folder_without_weights_is_refused(refused, tmp_path):
  folder = model_families.write(tmp_path / "x", "qwen2")
  (folder / "model.safetensors").unlink()
  said = refused(f"--config.weights={folder}")
  assert said == (
    f"{folder} has no weights: neither model.safetensors nor "
    "model.safetensors.index.json (it has config.json); fetch the folder again"
  )


def test_a_truncated_shard_is_refused_before_anything_is_trained(
  refused, tmp_path
):
  folder = tmp_path / "x"
  path = folder / "model.safetensors"
  # The experiment's shape, so that nothing else is wrong with it.
  model_families.write(
    folder,
    "qwen2_tied",
    vocab_size=300,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    intermediate_size=32,
    rope_theta=10_000.0,
    rms_norm_eps=1e-6,
  )
  path.write_bytes(path.read_bytes()[:-1])
  said = refused(f"--config.weights={folder}", "--config.model.vocab_size=300")
  assert said.startswith(
    f"{folder} cannot be loaded:\n  model.safetensors is truncated or no "
  )


def test_a_model_of_another_shape_is_refused(refused, tmp_path):
  folder = model_families.write(tmp_path / "x", "qwen2")
  said = refused(f"--config.weights={folder}", "--config.model.vocab_size=300")
  assert said.startswith(
    f"{folder} belongs to a model of another shape: vocab_size is 64 there and "
    "300 here; d_model is 24 there and 16 here; "
  )


def test_a_wrong_dtype_name_is_refused(refused):
  said = refused("--config.model.dtype=float16")
  assert said == (
    "config.model.dtype got 'float16' of type str, allowed is 'float32' or "
    "'bfloat16'; did you mean 'bfloat16'?"
  )
