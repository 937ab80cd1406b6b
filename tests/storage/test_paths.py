# SPDX-License-Identifier: Apache-2.0
"""Tests of the paths that users give."""

import pathlib

import pytest
from absl import flags
from absl.testing import flagsaver

from srl_jax import export, main, show, storage
from srl_jax.chat.__main__ import main as chat
from srl_jax.chat.prompts import read_prompts
from srl_jax.data import suites
from srl_jax.data.prepare import main as prepare
from srl_jax.data.readers import DataConfig, load_trajectories
from srl_jax.domains.software.tasks import read_tasks
from srl_jax.evaluate.__main__ import main as evaluate
from srl_jax.report.__main__ import main as report
from srl_jax.serve.__main__ import main as serve
from srl_jax.storage import hub
from srl_jax.tokenizers import TokenizerConfig, make_tokenizer

URL = "s3://bucket/folder"
EXPERIMENT = "experiments/registers.py"


@pytest.mark.parametrize(
  "text", ["a/b", "/a/b", "name:1/b", "C:/b", "./s3://b", "", "a:b"]
)
def test_a_path_without_a_scheme_stays_as_it_is(text):
  assert storage.path(text) == pathlib.Path(text)


@pytest.mark.parametrize(
  "given", [URL, pathlib.Path(URL), "file:///a", "https://host/a", "S3://b"]
)
def test_a_url_is_refused_by_the_name_of_its_scheme(given):
  scheme = str(given).partition(":")[0]
  with pytest.raises(ValueError, match=f"{scheme}://.*is not read"):
    storage.path(given)


def of_flags(*argv, **values):
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(**values):
    main.main(["main", *argv])


RUN = {"config": EXPERIMENT}
NO_DATA = ("--config.data.format=jsonl", "--config.data.path=none")
DATA = ("--data.format=registers", "--data.train_size=1")
COMMANDS = {
  # Without data it would end too, but not before it has a folder.
  "main --workdir": lambda: of_flags(*NO_DATA, workdir=URL, **RUN),
  "main data.path": lambda: of_flags(
    "--config.data.format=jsonl", f"--config.data.path={URL}", **RUN
  ),
  "main weights": lambda: of_flags(f"--config.weights={URL}", **RUN),
  "export --workdir": lambda: export.main([f"--workdir={URL}", "--out=x"]),
  "export --out": lambda: export.main(["--workdir=x", f"--out={URL}"]),
  "show --workdir": lambda: show.main([f"--workdir={URL}"]),
  "show --html": lambda: show.main(["--workdir=x", f"--html={URL}"]),
  "report --workdir": lambda: report([f"--workdir={URL}"]),
  "report --out": lambda: report(["--workdir=x", f"--out={URL}"]),
  "evaluate --out": lambda: evaluate(
    ["--weights=registers_student", "--suites=aime24", f"--out={URL}"]
  ),
  "evaluate --compare": lambda: evaluate(
    [
      "--weights=registers_student",
      "--suites=aime24",
      "--out=x",
      f"--compare={URL}",
    ]
  ),
  "evaluate --suites": lambda: evaluate(
    ["--weights=registers_student", f"--suites={URL}.jsonl", "--out=x"]
  ),
  "evaluate --suites_folder": lambda: evaluate(
    [
      "--weights=registers_student",
      "--suites=aime24",
      "--out=x",
      f"--suites_folder={URL}",
    ]
  ),
  "chat --weights": lambda: chat([f"--weights={URL}", "hello"]),
  "serve --weights": lambda: serve([f"--weights={URL}"]),
  "prepare --data.path": lambda: prepare(
    ["--data.format=jsonl", f"--data.path={URL}"]
  ),
  "prepare --out": lambda: prepare([*DATA, f"--out={URL}"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_makes_a_local_folder_of_a_url(
  command, tmp_path, monkeypatch, capsys
):
  experiments = pathlib.Path(EXPERIMENT).parent.resolve()
  monkeypatch.chdir(tmp_path)
  (tmp_path / "experiments").symlink_to(experiments)
  with pytest.raises(SystemExit) as stopped:
    COMMANDS[command]()
  said = f"{stopped.value} {capsys.readouterr().err}"
  assert "s3:// is not read" in said
  assert said.count("\n") <= 2  # A line, and where its traceback is.
  assert not (tmp_path / "s3:").exists()


READERS = {
  "tasks": lambda: read_tasks(URL),
  "data": lambda: load_trajectories(DataConfig("jsonl", URL)),
  "prompts": lambda: read_prompts(URL),
  "suites": lambda: suites.find_file(*suites.parse_suites(f"{URL}.jsonl")[0]),
  "weights": lambda: hub.fetch(URL),
  "tokenizer": lambda: make_tokenizer(TokenizerConfig("sentencepiece", URL)),
  "new tokenizer": lambda: make_tokenizer(
    TokenizerConfig("sentencepiece", URL, train_vocab_size=300), ["text"]
  ),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_looks_for_a_local_folder_of_a_url(reader):
  with pytest.raises(ValueError, match="s3:// is not read"):
    READERS[reader]()
