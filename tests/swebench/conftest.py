# SPDX-License-Identifier: Apache-2.0
"""The whole command on toy repositories, with a model that says what it must.

The weights, the tokenizer and the chat template are those of a small
checkpoint; only the stream is scripted.
"""

import json
import pathlib

import pytest

from srl_jax import inference, progress
from srl_jax.processes import stopping
from srl_jax.rewards import Completion
from srl_jax.swebench import __main__ as command
from tests.support import repositories, small_model
from tests.support.scripted import ScriptedStream


class Stream(ScriptedStream):
  """Answers by a function of prompt and sample, up to the request's limit."""

  def answer(self, prompt, request, sample):
    text = self._answer(prompt, sample)
    tokens = self._tokenizer.encode(text)
    if len(tokens) < request.max_new_tokens:
      return Completion(text, True)
    # The tokenizer of the tests spells these as it has read them.
    cut = self._tokenizer.decode(tokens[: request.max_new_tokens])
    return Completion(cut, False)


class Bench:
  """A folder with clones and rows; `run` is the command.

  Attributes:
    folder: the folder.
    model: folder of the checkpoint.
    commit: the commit of acme/parts.
    prompts: what the model was asked since `run` began.
    streams: rows and slots of the streams since then.
  """

  def __init__(self, folder, model, monkeypatch, capsys):
    self.folder, self.model = folder, model
    self._monkeypatch, self._capsys = monkeypatch, capsys
    self.commit = repositories.make(folder / "clones" / "acme__parts")
    self.prompts, self.streams = [], []
    self.rows = []

  def row(self, name="one", **fields):
    """Adds an instance."""
    self.rows.append(
      {
        "instance_id": name,
        "repo": "acme/parts",
        "base_commit": self.commit,
        "problem_statement": f"This is {name}.",
        "patch": repositories.GOLD,
        **fields,
      }
    )

  def write(self):
    path = self.folder / "toy.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
    return path

  def run(self, answer, *flags, out="out"):
    """Runs the command and returns what it said.

    Args:
      answer: a function (prompt, sample) -> answer.
      *flags: further options.
      out: name of the folder of the results.
    """
    self.prompts, self.streams = [], []

    def scripted(prompt, sample):
      self.prompts.append(prompt)
      return answer(prompt, sample)

    def stream(model, *, rows, slots, **_):
      self.streams.append((rows, slots))
      stop_id, *_ = model.stop_ids
      tokenizer = model.run.tokenizer
      return Stream(tokenizer, scripted, stop_id=stop_id)

    return self.run_with(stream, *flags, out=out)

  def run_with(self, stream, *flags, out="out"):
    """Runs the command with a function that makes the model's stream."""
    self._monkeypatch.setattr(inference.ReadyModel, "stream", stream)
    command.main(
      [
        f"--weights={self.model}",
        f"--suite={self.write()}",
        f"--repositories={self.folder / 'clones'}",
        f"--out={self.folder / out}",
        *flags,
      ]
    )
    return self._capsys.readouterr().out

  def refused(self, answer, *flags, **more):
    """Runs a command that is refused, and returns what it said."""
    with pytest.raises(SystemExit):
      self.run(answer, *flags, **more)
    return self._capsys.readouterr().err

  def results(self, out="out"):
    return json.loads((self.folder / out / "results.json").read_text())

  def outcomes(self, out="out"):
    lines = (self.folder / out / "outcomes.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]

  def patches(self, name="greedy", out="out"):
    path = self.folder / out / "predictions" / f"{name}.jsonl"
    records = map(json.loads, path.read_text().splitlines())
    return {x["instance_id"]: x["model_patch"] for x in records}


@pytest.fixture(scope="session")
def small(tmp_path_factory):
  folder = tmp_path_factory.mktemp("swebench") / "model"
  return small_model.write(folder)


@pytest.fixture
def bench(tmp_path, small, monkeypatch, capsys):
  # Signals are for processes, and lines of long silences would come between.
  monkeypatch.setattr(stopping, "listen", lambda line: None)
  monkeypatch.setattr(progress, "SILENCE_S", 1e6)
  return Bench(pathlib.Path(tmp_path), small, monkeypatch, capsys)
