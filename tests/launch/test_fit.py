# SPDX-License-Identifier: Apache-2.0
"""Which presets fit: counts against the compiler's, spreads, and cost."""

import importlib.util
import re
import types

import pytest

from launch import fit
from launch.tpu import fitting
from launch.tpu.drawn import Lengths
from srl_jax import config as config_lib

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="the TPU compiler is part of libtpu (extra 'tpu')",
)
PLACEMENT = types.SimpleNamespace(
  chips=64, tensor=4, parts=1, trunks_per_chip=2
)


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
  ("preset", "name", "compiled_gib", "step_s"),
  # benchmarks/RESULTS.md: the largest program; a step of full lengths.
  [
    ("qwen2_5_7b", "v5litepod-64", 11.37, 33.5),
    ("qwen2_5_3b", "v5litepod-64", 9.28, 18.1),
    ("qwen2_5_0_5b", "v5litepod-8", 8.90, 28.9),
    ("qwen2_5_7b_lora", "v5litepod-8", 14.25, 224.1),
    ("qwen2_5_7b,model.remat=dots", "v5p-128", 44.01, 11.9),
  ],
)
def test_counts_are_near_what_the_compiler_found(
  preset, name, compiled_gib, step_s
):
  machine = fit.find(name)
  config = config_lib.load(f"experiments/math.py:{preset}")
  need = fitting.need(
    config,
    "srl",
    machine.devices,
    machine.chip,
    machine.link_bytes_per_s,
    Lengths(1.0, config.srl.sampling.max_new_tokens),
    lanes=machine.lanes,
  )
  assert 1 <= compiled_gib / (need.memory_bytes / 2**30) <= fit._COMPILED
  assert need.state_bytes < need.memory_bytes
  assert need.step_s == pytest.approx(step_s, rel=0.01)


def test_a_placement_on_its_own_chips_is_taken_as_it_is_first():
  first, *others = fit.spreads(PLACEMENT, 64, 256)
  assert first == ""
  assert others[0] == (
    ",srl.trunks_per_micro_batch=64,srl.sampling.parts_per_round=2"
  )


def test_a_placement_is_spread_over_fewer_chips_with_as_much_on_each():
  first = next(fit.spreads(PLACEMENT, 8, 256))
  assert first == (
    ",srl.trunks_per_micro_batch=16,srl.sampling.parts_per_round=8"
  )
  # One device cannot hold the weights with others.
  assert "mesh.tensor=1" in next(fit.spreads(PLACEMENT, 1, 256))


@pytest.mark.parametrize(
  ("devices", "last"),
  [
    (
      1,
      ",mesh.tensor=1,srl.trunks_per_micro_batch=1"
      ",srl.sampling.parts_per_round=256",
    ),
    (8, ",srl.trunks_per_micro_batch=8,srl.sampling.parts_per_round=32"),
    (64, ",srl.trunks_per_micro_batch=64,srl.sampling.parts_per_round=4"),
    # The placement itself has 128 trunks in a micro-batch.
    (128, ",srl.sampling.parts_per_round=2"),
  ],
)
def test_spreads_end_with_one_row_and_one_trunk_for_each_device(devices, last):
  *_, found = fit.spreads(PLACEMENT, devices, 256)
  assert found == last


def test_what_is_to_be_typed_can_be_loaded():
  for devices in (1, 4, 8, 128):
    for spread in fit.spreads(PLACEMENT, devices, 256):
      config_lib.load(f"experiments/math.py:qwen2_5_7b{spread}")


def said(capsys, *arguments):
  status = fit.main(arguments)
  captured = capsys.readouterr()
  return status, captured.out, captured.err


def test_a_machine_that_is_too_small_is_said_so(capsys, monkeypatch):
  need = fitting.Need(200 * 2**30, 201 * 2**30, 1.0)
  monkeypatch.setattr(fitting, "need", lambda *_, **__: need)
  status, out, _ = said(capsys, "--type=t4")
  assert status == 1
  assert out.count("201.00 of 11.25 GiB: does not fit") == 4
  assert "no list price is known" in out


@pytest.mark.parametrize(
  ("memory_gib", "verdict"), [(4, "fits"), (10, "may fit")]
)
def test_hours_and_cost_are_steps_times_chips_times_price(
  memory_gib, verdict, capsys, monkeypatch
):
  need = fitting.Need(2**30, memory_gib * 2**30, 36.0)
  monkeypatch.setattr(fitting, "need", lambda *_, **__: need)
  status, out, _ = said(capsys, "--type=t4", "--price=0.5")
  assert status == 0
  # 300 steps of 36 s are 3 hours of one chip.
  [line] = [x for x in out.splitlines() if x.startswith("qwen2_5_0_5b")]
  assert f": {verdict}; 36.0 s a step, 300 steps in 3.0 h, 2 USD" in line
  assert "0.50 USD per chip and hour (yours)" in out


@pytest.mark.parametrize(
  ("kept_gib", "step_s", "is_taken"),
  [(7, 30.0, True), (9, 30, False), (7, 36, False)],
)
def test_products_are_kept_where_that_fits_and_is_faster(
  kept_gib, step_s, is_taken, capsys, monkeypatch
):
  def need(config, *_, **__):
    if config.model.remat == "full":
      return fitting.Need(2**30, 2 * 2**30, 36.0)
    return fitting.Need(2**30, kept_gib * 2**30, step_s)

  monkeypatch.setattr(fitting, "need", need)
  # Of 11.25 GiB.
  _, out, _ = said(capsys, "--type=t4")
  lines = out.splitlines()
  [at] = [i for i, x in enumerate(lines) if x.startswith("qwen2_5_0_5b")]
  assert lines[at + 1].endswith(",model.remat=dots") == is_taken
  assert (f"{kept_gib}.00 of 11.25 GiB: fits; 30.0 s" in lines[at]) == is_taken


@pytest.mark.parametrize(
  ("flags", "lengths", "text"),
  [
    ((), (1.0, 1024), "100% of the groups kept, completions of full length"),
    (
      ("--kept=0.4", "--mean_tokens=420"),
      (0.4, 420),
      "40% of the groups kept, completions of 420 tokens on average",
    ),
  ],
)
def test_what_is_counted_for_is_as_asked_and_is_said(
  flags, lengths, text, capsys, monkeypatch
):
  seen = set()

  def need(config, stage, devices, chip, link, lengths, **_):
    seen.add(lengths)
    return fitting.Need(2**30, 2**30, 36.0)

  monkeypatch.setattr(fitting, "need", need)
  _, out, _ = said(capsys, "--type=t4", *flags)
  assert seen == {lengths}
  assert f"counted at peak rates, {text}; a real run differs\n" in out
  assert "bound" not in out


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--kept=0", "--kept is 0;"),
    ("--mean_tokens=1025", "above c.srl.sampling.max_new_tokens=1024"),
  ],
)
def test_what_no_step_can_find_is_refused(flag, message, capsys):
  status, out, err = said(capsys, "--type=t4", flag)
  assert (status, out) == (1, "")
  assert message in err and err.count("\n") == 1


@needs_libtpu
def test_the_list_price_is_said_with_its_date(capsys, monkeypatch):
  need = fitting.Need(2**30, 2**30, 36.0)
  monkeypatch.setattr(fitting, "need", lambda *_, **__: need)
  _, out, _ = said(capsys, "--type=v5e-8")
  assert re.search(r"1\.20 USD per chip and hour \(list price .*2026", out)
  # 3 hours x 8 chips x 1.20.
  assert "300 steps in 3.0 h, 29 USD" in out


def test_an_experiment_without_placements_is_counted_as_it_is(capsys):
  source = "experiments/own_solutions.py:qwen2_5_0_5b,srl.update_steps=7"
  status, out, _ = said(capsys, "--type=h100", f"--config={source}")
  assert (status, out.count("GiB:")) == (0, 1)
  assert "own_solutions:qwen2_5_0_5b " in out and " 7 steps in " in out
  assert out.endswith(f"\n  --config={source}\n")


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ("experiments/none.py", "there is no file"),
    ("experiments/gsm8k.py", "c.model.vocab_size is 0"),
    ("experiments/math.py:qwen2_5_0_5b,method=sft", "has no stage of RL"),
  ],
)
def test_an_experiment_that_cannot_be_counted_is_refused(
  config, message, capsys
):
  status, _, err = said(capsys, "--type=t4", f"--config={config}")
  assert status == 1 and message in err and err.count("\n") == 1


def test_a_type_that_is_unknown_is_refused_with_the_nearest(capsys):
  status, _, err = said(capsys, "--type=v5p-127")
  assert status == 1 and "did you mean v5p-128?" in err
  assert "or one of h100, t4" in err
