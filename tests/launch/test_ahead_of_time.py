# SPDX-License-Identifier: Apache-2.0
"""Programs compiled for TPUs without having any, and the report on them."""

import dataclasses
import importlib.util
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from launch import compile as launch_compile
from launch.tpu import ahead_of_time, chips, evaluation, projection
from launch.tpu.phases import Phase, Step
from launch.tpu.work import Work
from srl_jax import config as config_lib
from srl_jax import sharding
from srl_jax.evaluate.solve import EvalConfig
from srl_jax.models import LanguageModel
from srl_jax.models.config import LoraConfig
from srl_jax.testing import experiment, tiny
from srl_jax.train import memory as memory_lib
from srl_jax.train.memory import Program

ROOT = pathlib.Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="the TPU compiler is part of libtpu (extra 'tpu')",
)
OVERRIDES = (
  "model.vocab_size=304,model.n_kv_heads=2,mesh.data=1,mesh.fsdp=2,"
  "mesh.tensor=2,rollout_rules.embed=None,srl.trunks.max_trunk_tokens=32,"
  "srl.trunks.points_per_trunk=2,device_reward.on=host"
)


def command(*arguments):
  config = f"--config={experiment.__file__}:srl,{OVERRIDES}"
  return launch_compile.main([config, *arguments])


@pytest.mark.slow
@needs_libtpu
def test_the_programs_of_a_stage_compile_for_a_tpu(capsys):
  # The model is large enough for sizes in megabytes.
  larger = ("--config.model.lora.rank=2", "--config.model.d_mlp=32768")
  assert command("--topology=v5e:2x2", *larger) == 0
  out = capsys.readouterr().out
  lines = out.splitlines()
  [saving] = [line for line in lines if "adapters of rank 2: " in line]
  ours, full = re.findall(r": ([\d.]+) MiB", saving)
  assert 0 < float(ours) < float(full)
  fits = [line for line in lines if "  fits (" in line]
  assert [line.split("  ")[0] for line in fits] == [
    "rollout: prefill",
    "rollout: decode",
    "update: accumulate",
    "update: finish",
  ]
  assert "100% of the groups kept, completions of 8 tokens on average" in out
  assert re.search(r"beside \d+ of [1-9]\d* all-gathers", out)
  assert any(line.endswith("projected / ideal") for line in lines)
  [summary] = [line for line in lines if line.startswith("step at peak rates")]
  assert re.search(r"bound by (compute|memory|links)$", summary)


@pytest.mark.slow
@needs_libtpu
def test_a_segment_copies_neither_trunks_nor_the_ring():
  changes = "model.n_layers=2,model.head_width=128,model.dtype=bfloat16"
  changes += ",srl.sampling.rows=16,srl.sampling.slots=16"
  changes += ",srl.trunks.max_trunk_tokens=512"
  # 1,003 columns and some of the stem: no multiple of 16.
  changes += ",srl.sampling.max_new_tokens=1003,model.max_positions=2048"
  config = config_lib.to_config(
    experiment.get_config(f"srl,{OVERRIDES},{changes}")
  )
  devices = ahead_of_time.devices("v5e:2x2")
  mesh = sharding.make_mesh(config.mesh, devices)
  data = ahead_of_time.widths(config, "srl", 16, 64)
  stage = ahead_of_time.build_stage(config, "srl", mesh, data)
  [segment] = (p for p in stage.plan() if p.name.endswith("segment"))
  compiled, _ = segment._outcome
  copied = re.findall(r" = \w+\[([\d,]+)\]\S* copy\(", compiled.as_text())
  sizes = [math.prod(map(int, shape.split(","))) for shape in copied]
  # A device has 8 rows of three trunks, and a key/value head.
  assert max(sizes) < 8 * 3 * 512 * 128


@pytest.mark.slow
@needs_libtpu
def test_the_programs_of_the_evaluation_compile_for_a_tpu(capsys):
  def arguments(*changes):
    assert command("--topology=v5e:2x2", "--evaluation", *changes) == 0
    lines = capsys.readouterr().out.splitlines()
    found = (re.match(r"(.*?)  +([\d.]+) MiB", line) for line in lines)
    return {x[1]: float(x[2]) for x in found if x}

  changes = (
    *("--config.model.d_mlp=64", "--config.evaluate.suites=aime24"),
    *("--config.evaluate.samples=2", "--config.data.test_size=0"),
    "--config.evaluate.modes=turns,solve",
  )
  found = arguments("--config.evaluate.suite_tokens=64", *changes)
  kinds = [name for name in found if not name.startswith(("rollout", "update"))]
  assert kinds == [
    *("single steps: prefill", "single steps: decode"),
    *("turns: admit", "turns: extend", "turns: segment"),
    *("solve: admit", "solve: segment"),
    *("suites: admit", "suites: segment"),
  ]
  longer = arguments("--config.evaluate.suite_tokens=512", *changes)
  assert longer["suites: segment"] > found["suites: segment"]
  assert longer["solve: segment"] == found["solve: segment"]


def test_the_decoding_that_takes_more_is_planned():
  def sizes(prompts, *samples, trunk=100):
    settings = EvalConfig(answers_per_batch=64)
    return evaluation.most_rows(settings, (trunk, 10), prompts, samples)

  # Greedy answers have a row each, and sampled ones share trunks.
  assert sizes(0, 1, 8) == (64, 1)
  # Of few problems more samples are decoded at a time.
  assert sizes(8, 1, 8, trunk=1) == (8, 8)
  assert sizes(40, 1, 4, trunk=1) == (16, 4)
  assert sizes(40, 1, 4) == (40, 1)
  assert sizes(0, 1, 0) == (64, 1)


@needs_libtpu
def test_what_does_not_fit_is_said_with_its_bytes():
  device = ahead_of_time.devices("v5e:2x2")[0]
  mesh = sharding.make_mesh(sharding.MeshConfig(), [device])
  here = NamedSharding(mesh, PartitionSpec())

  def program(elements):
    x = jax.ShapeDtypeStruct((elements,), jnp.float32, sharding=here)
    return Program("add", jax.jit(lambda x: x + 1), (x,), mesh, "", 7)

  memory = program(2**20).memory()
  assert (memory.argument, memory.output) == (2**22, 2**22)
  assert memory.total == memory.temporary + 2 * 2**22 + 7
  with pytest.raises(memory_lib.DoesNotFitError, match=r"16\.00G.*15\.75G"):
    # The argument of 8 GiB would fit alone, but not beside the result.
    program(2**31).memory()


@needs_libtpu
@pytest.mark.parametrize(
  ("chip", "topology"),
  [
    ("v5e", "v5e:2x2"),
    ("v5p", "v5p:2x2x1"),
    ("v6e", "v6e:2x2"),
    ("tpu7x", "tpu7x:2x2x1"),
  ],
)
def test_the_memory_of_a_chip_is_what_the_compiler_allows(chip, topology):
  device = ahead_of_time.devices(topology)[0]
  x = jax.ShapeDtypeStruct(
    (2**36,), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device)
  )
  with pytest.raises(jax.errors.JaxRuntimeError) as raised:
    jax.jit(lambda x: x + 1).lower(x).compile()
  [limit] = re.findall(r"available HBM \(([\d.]+)G\)", str(raised.value))
  # Versions of libtpu differ by 0.01.
  assert abs(chips.CHIPS[chip].memory_bytes / 2**30 - float(limit)) < 0.015


def test_without_the_compiler_the_command_says_what_to_install(
  monkeypatch, capsys
):
  monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
  assert command("--topology=v5e:2x2") == 1
  error = capsys.readouterr().err
  assert "pip install -c constraints.txt -e '.[tpu]'" in error


@pytest.mark.parametrize("flag", ["--kept=0", "--kept=40", "--mean_tokens=-1"])
def test_what_no_step_can_find_is_refused(flag, capsys):
  assert command("--topology=v5e:2x2", flag) == 1
  name, _, value = flag.partition("=")
  assert f"{name} is {value};" in capsys.readouterr().err


def test_completions_are_no_longer_than_their_limit(capsys):
  assert command("--topology=v5e:2x2", "--mean_tokens=9") == 1
  error = capsys.readouterr().err
  assert "--mean_tokens=9 is above c.srl.sampling.max_new_tokens=8" in error


@pytest.mark.slow
@needs_libtpu
def test_the_programs_of_a_stage_compile_for_two_slices(capsys):
  two = ("--slices=2", "--config.mesh.data=2")
  assert command("--topology=v5e:2x2", *two) == 0
  out = capsys.readouterr().out
  assert "on 2 slices of v5e:2x2: data 2 x fsdp 2 x tensor 2" in out
  [received] = re.findall(r"between the 2 slices: (\S+) GB per chip", out)
  [batches] = re.findall(r"(\d+) micro-batch\(es\)$", out, re.M)
  config = config_lib.to_config(experiment.get_config(f"srl,{OVERRIDES}"))
  params = jax.eval_shape(
    lambda: LanguageModel(config.model, config.rules).init(jax.random.key(0))
  )
  elements = sum(x.size for x in jax.tree.leaves(params))
  # A quarter of them are on each device, but for vectors, which are whole.
  whole = config.srl.passes * int(batches) * elements * 4 / 1e9
  assert whole / 4 < float(received) < whole / 3.5


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("srl.trunks.max_trunk_tokens=0", r"max_trunk_tokens is 0, so the data"),
    ("srl.trunks.points_per_trunk=0", r"srl\.trunks\.points_per_trunk="),
    ("model.vocab_size=0", r"c\.model\.vocab_size is 0, so the tokenizer"),
  ],
)
def test_what_the_data_would_decide_has_to_be_set(change, message):
  config = experiment.get_config(f"srl,{OVERRIDES},{change}")
  with pytest.raises(ValueError, match=message):
    ahead_of_time.widths(config_lib.to_config(config), "srl", 16, 64)


def test_stages_of_episodes_are_refused():
  config = config_lib.to_config(experiment.get_config("episodes"))
  with pytest.raises(ValueError, match="leave the stage episodes out"):
    ahead_of_time.widths(config, "episodes", 16, 64)


def test_adapters_need_no_moments_for_the_model():
  config = config_lib.to_config(experiment.get_config(f"srl,{OVERRIDES}"))
  adapted = dataclasses.replace(
    config,
    model=dataclasses.replace(config.model, lora=LoraConfig(rank=2)),
  )
  mesh = tiny.small_mesh()

  def parameters(c):
    shapes = jax.eval_shape(LanguageModel(c.model).init, jax.random.key(0))
    return sum(x.size for x in jax.tree.leaves(shapes))

  model = parameters(config)
  adapters = parameters(adapted) - model
  assert 0 < adapters < model
  # There are values, two moments and the sum in float32, and small counters.
  data = ahead_of_time.widths(config, "srl", 16, 64)
  ours, full = (
    ahead_of_time.training_bytes(
      ahead_of_time.build_stage(c, "srl", mesh, data)
    )
    for c in (adapted, config)
  )
  assert full == pytest.approx(16 * model, abs=16)
  assert ours == pytest.approx(4 * model + 16 * adapters, abs=16)


def test_a_whole_solution_has_one_branch_point():
  config = experiment.get_config(
    f"rlvr,{OVERRIDES},rlvr.trunks.max_trunk_tokens=8"
  )
  found = ahead_of_time.widths(config_lib.to_config(config), "rlvr", 16, 64)
  assert found.widths == ahead_of_time.Widths(8, 1, 16, 0)
  assert found.target_chars == 64


SFT = (
  f"--config={experiment.__file__}:sft,model.vocab_size=304,"
  "model.n_kv_heads=2,mesh.data=1,mesh.fsdp=2,mesh.tensor=2,"
  "sft.trunks.max_trunk_tokens=32,sft.trunks.points_per_trunk=2"
)


@pytest.mark.slow
@needs_libtpu
def test_sft_alone_is_compiled_at_its_limits(capsys):
  changes = ("sft.trunks.max_target_tokens=24", "sft.alternate_solve=False")
  config = ",".join([SFT, *changes])
  assert launch_compile.main([config, "--topology=v5e:2x2"]) == 0
  out = capsys.readouterr().out
  assert "2 branch points, branches of 40 tokens" in out
  fits = [x.split("  ")[0] for x in out.splitlines() if "  fits (" in x]
  assert fits == ["update: accumulate", "update: finish"]
  narrower = config.replace("target_tokens=24", "target_tokens=8")
  assert launch_compile.main([narrower, "--topology=v5e:2x2"]) == 0
  narrow, wide = (
    float(re.search(r"accumulate +[\d.]+ MiB +([\d.]+) MiB", text)[1])
    for text in (capsys.readouterr().out, out)
  )
  assert narrow < wide


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ("", "type --config.sft.alternate_solve=False"),
    ("sft.alternate_solve=False", "c.sft.trunks.max_target_tokens is 0"),
  ],
)
def test_sft_without_limits_is_not_described(changes, message, capsys):
  config = ",".join(filter(None, [SFT, changes]))
  assert launch_compile.main([config, "--topology=v5e:2x2"]) == 1
  assert message in capsys.readouterr().err


def test_sft_samples_nothing_that_could_be_kept(capsys):
  for flag in ("--kept=0.5", "--mean_tokens=4"):
    changes = "sft.trunks.max_target_tokens=24,sft.alternate_solve=False"
    command = [f"{SFT},{changes}", "--topology=v5e:2x2", flag]
    assert launch_compile.main(command) == 1
    assert "sft samples nothing" in capsys.readouterr().err


def test_links_of_a_closed_torus_are_twice_as_fast():
  v5e, v5p = chips.CHIPS["v5e"], chips.CHIPS["v5p"]
  assert v5e.link_bytes_per_s((8, 8)) == 50e9
  assert v5e.link_bytes_per_s((16, 16)) == 100e9
  assert v5p.link_bytes_per_s((4, 4, 4)) == 200e9


# One phase takes 2 s of compute. The other takes 1 s of memory three times,
# beside 0.5 s of compute.
TOY = chips.Chip("toy", 100.0, 1, 10.0, 1.0, 4)
STEP = Step(
  phases=[
    Phase("rollout: decode, layers", 1, Work(200, 1, 1)),
    Phase("update: finish", 3, Work(50, 10, 0)),
  ],
  ideal={"rollout: decode": Work(50, 10, 0)},
  batch=None,
  rounds=1,
  tokens=320,
)


def test_every_phase_takes_as_long_as_what_binds_it():
  [line, waits, _] = projection.summary(STEP, TOY, 1.0, 4)
  assert line == (
    "step at peak rates: 5.0 s, 64 sampled tokens/s (16 per chip); 60% of it "
    "is update: finish, bound by memory"
  )
  # Its second of links counts as hidden by two of compute.
  assert ": 1.0 s more where nothing else is done meanwhile" in waits


def test_each_part_of_a_step_stands_beside_the_least_that_it_could_be():
  lines = list(projection._beside_ideal(STEP, TOY, 1.0))
  assert [line.split() for line in lines[1:]] == [
    ["rollout:", "decode", "2.00", "s", "1.00", "s", "2.00"],
    ["all", "else", "3.00", "s"],
    ["step", "5.00", "s", "1.00", "s", "5.00"],
  ]


def test_all_ask_one_place_for_described_devices():
  # Elsewhere, settings that let processes compile side by side would lack.
  asking = [
    str(path.relative_to(ROOT))
    for folder in ("srl_jax", "launch", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if "topologies." + "get_topology_desc" in path.read_text(encoding="utf-8")
  ]
  assert asking == ["launch/tpu/ahead_of_time.py"]
