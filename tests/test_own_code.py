# SPDX-License-Identifier: Apache-2.0
"""Code of a user's own, which a config knows by its name only."""

import json
import sys

import jax
import pytest

from srl_jax import own_code
from srl_jax.storage import hub
from srl_jax.storage import workdir as workdir_lib
from srl_jax.storage.workdir import RefusedError
from srl_jax.testing import experiment

REWARD = "def reward(action, target):\n  return {}\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
  """Gives a module for tests another text, as an editor does."""
  monkeypatch.syspath_prepend(tmp_path)
  # Files that are written within a second are else taken for the same.
  monkeypatch.setattr(sys, "dont_write_bytecode", True)

  def write(text):
    (tmp_path / "own_for_tests.py").write_text(text)
    sys.modules.pop("own_for_tests", None)

  yield write
  sys.modules.pop("own_for_tests", None)


@pytest.mark.slow
def test_another_reward_is_refused_once_a_stage_has_trained_with_it(
  runs, write, tmp_path, monkeypatch, capsys
):
  def run():
    runs.run(
      tmp_path / "run",
      "sft_srl",
      srl__update_steps=1,
      srl__reward__function="own_for_tests:reward",
      reward_workers__count=0,
    )

  # A mistake may be mended: no number depends on it.
  write(REWARD.format("float('one')"))
  with pytest.raises(RuntimeError, match="it raised"):
    run()
  write(REWARD.format("len(action) / 8"))
  run()
  write(REWARD.format("-len(action)"))
  with pytest.raises(RefusedError) as caught:
    run()
  assert str(caught.value).startswith(
    "the code of config.srl.reward.function='own_for_tests:reward' changed "
    f"since {tmp_path / 'run'} was begun"
  )
  # The user may know better. Another version of the package is only said.
  (tmp_path / "run" / "own_code.json").unlink()
  changed = workdir_lib.versions() | {"jax": "of tomorrow"}
  monkeypatch.setattr("srl_jax.run.versions", lambda: changed)
  capsys.readouterr()
  run()
  said = capsys.readouterr().out
  assert "was begun with other code: jax was " in said
  assert "is of tomorrow; numbers" in said
  # The first attempt's versions stay, beside what later ones had; it is said
  # again only if something changes again.
  noted = json.loads((tmp_path / "run" / "versions.json").read_text())
  assert noted["jax"] == jax.__version__
  assert noted["later"] == [{"jax": "of tomorrow"}]
  # The run keeps to the commits of the hub that it has read.
  commits = tmp_path / "run" / "commits.json"
  commits.write_text('{"a/b": "old"}')
  monkeypatch.setattr(hub, "COMMITS", {"a/b": "new"})
  run()
  assert hub.COMMITS == {"a/b": "old"}
  assert "was begun with other code" not in capsys.readouterr().out


def test_a_domain_counts_with_the_files_of_its_reward_and_verdict(
  runs, write, imported_domains
):
  text = (
    "import dataclasses\nfrom srl_jax.domains import DOMAINS\nOWN = "
    "dataclasses.replace(DOMAINS['math'], reward='own_for_tests:reward')\n"
    + REWARD.format(0.5)
  )

  def found(text):
    write(text)
    imported_domains.clear()
    return own_code.checksums(
      runs.config("sft_srl", data__domain="own_for_tests:OWN")
    )

  first = found(text)
  assert first.keys() == {"data.domain"}
  assert found(text) == first
  assert found(text + "# Other.\n") != first
  # What ships with the package is in versions.json, and so is its checksum.
  shipped = f"{experiment.__name__}:half"
  config = runs.config("srl", srl__reward__function=shipped)
  assert own_code.checksums(config) == {}
  assert workdir_lib.SOURCE in workdir_lib.versions()


def test_processes_have_the_same_code(runs, write, tmp_path, monkeypatch):
  write(REWARD.format(0.5))
  compared = {}
  monkeypatch.setattr(own_code.agreement, "check_same", compared.update)
  config = runs.config("srl", srl__reward__function="own_for_tests:reward")
  own_code.check(config, tmp_path / "run", ())
  assert (
    compared == {"own code": own_code.checksums(config)} != {"own code": {}}
  )
