# SPDX-License-Identifier: Apache-2.0
"""Experiments choose by machine and method, and start from one another."""

import pathlib
import runpy

import jax
import pytest

from srl_jax import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
MATH = ROOT / "experiments" / "math.py"


@pytest.mark.parametrize(
  ("backend", "devices", "preset", "name"),
  [
    ("cpu", 64, "qwen2_5_7b", "registers:srl"),
    ("gpu", 8, "qwen2_5_7b", "registers:srl"),
    ("tpu", 4, "qwen2_5_7b", "registers:srl"),
    ("tpu", 8, "registers", "math:qwen2_5_0_5b"),
    ("tpu", 64, "registers", "math:qwen2_5_7b"),
  ],
)
def test_the_bare_recipe_suits_the_machine_and_a_preset_pins_it(
  monkeypatch, backend, devices, preset, name
):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)
  monkeypatch.setattr(jax, "device_count", lambda: devices)
  get_config = runpy.run_path(str(MATH))["get_config"]
  config = get_config("log_every=3")
  assert (config.name, config.log_every) == (name, 3)
  of_tpu = devices if backend == "tpu" else 0
  assert config.note.startswith(f"math: there are {of_tpu} TPU devices, ")
  assert "experiments/math.py:registers" in config.note
  recipe = "qwen2_5_0_5b" if backend == "gpu" else "qwen2_5_7b"
  assert f"experiments/math.py:{recipe}" in config.note
  assert ("for 8 GPU(s) no recipe" in config.note) == (backend == "gpu")
  assert ("srl_jax fit --type=h100" in config.note) == (backend == "gpu")
  pinned = get_config(preset)
  assert pinned.name != name
  assert pinned.note == ""


@pytest.mark.parametrize("preset", ["registers", "qwen2_5_7b", "qwen2_5_0_5b"])
def test_a_method_says_what_is_trained(preset):
  of = {
    method: config_lib.load(f"{MATH}:{preset},method={method}")
    for method in ("srl", "srl_rlvr", "rlvr", "r3", "sft")
  }
  assert of["srl"] == config_lib.load(f"{MATH}:{preset}")
  assert {method: config.stages for method, config in of.items()} == {
    "srl": ("srl",),
    "srl_rlvr": ("srl", "rlvr"),
    "rlvr": ("rlvr",),
    "r3": ("rlvr",),
    "sft": ("sft",),
  }
  assert of["r3"].rlvr.trunks.starts == "every_step"
  assert of["rlvr"].rlvr.trunks.starts == "problem"
  with pytest.raises(ValueError, match=r"no (method|preset) 'srlv'"):
    config_lib.load(f"{MATH}:{preset},method=srlv")


def test_long_reasoning_is_trained_on_and_judged_to_its_end():
  short, long = (
    config_lib.load(f"{MATH}:qwen2_5_7b,method={method}")
    for method in ("sft", "sft_reasoning")
  )
  assert long.data.reasoning_thoughts
  assert long.sft.trunks.include_thoughts
  assert not short.sft.trunks.include_thoughts
  longest = long.sft.trunks.max_target_tokens
  assert longest == 4 * short.sft.trunks.max_target_tokens
  assert long.evaluate.max_solve_tokens == longest
  assert long.evaluate.suite_protocol().max_new_tokens == longest
  # As many tokens as before are decoded together.
  together = [
    c.evaluate.answers_per_batch * c.evaluate.max_solve_tokens
    for c in (short, long)
  ]
  assert together[0] == together[1]


def test_one_experiment_starts_from_another_in_whatever_folder(monkeypatch):
  expected = runpy.run_path(str(MATH.with_name("registers.py")))["get_config"](
    "srl"
  )
  monkeypatch.chdir(ROOT / "tests")
  found = config_lib.load("../experiments/math.py:registers")
  assert found == config_lib.to_config(expected)


def test_an_experiment_of_ones_own_starts_from_one_that_ships(tmp_path):
  path = tmp_path / "own.py"
  text = (
    "from srl_jax import config\n"
    "def get_config(argument=None):\n"
    "  return config.base_config(__file__, NAME, argument)\n"
  )
  path.write_text(text.replace("NAME", "'registers'"))
  assert config_lib.load(str(path)) == config_lib.load("registers")
  path.write_text(text.replace("NAME", "'register'"))
  with pytest.raises(ValueError, match=r"'register': neither .* registers"):
    config_lib.load(str(path))
