# SPDX-License-Identifier: Apache-2.0
"""What a run says of its memory before it starts, and that it is what runs."""

import itertools
import logging
import re

import jax
import numpy as np
import pytest

from srl_jax import initial_weights, loading
from srl_jax.testing import tiny
from srl_jax.train import memory, rl
from srl_jax.train.memory import Memory, Program
from srl_jax.update import pack_shapes

# Name of what is compiled, in JAX's log.
COMPILED = re.compile(r"Finished XLA compilation of jit\((\w+)\)")
PROGRAMS = ("prefill", "decode", "accumulate", "finish", "update")
SHARED = ("admit", "segment")


def compilations(caplog):
  """What was compiled, program by program, in order."""
  names = [COMPILED.search(record.message) for record in caplog.records]
  return [x[1] for x in names if x and x[1] in PROGRAMS + SHARED]


def logged(runs, workdir, preset, caplog, **changes):
  """Runs, and returns what was compiled before and after the plan was out."""
  runs.forget()
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    plan = []
    events = {(preset, 0): lambda: plan.append(compilations(caplog))}
    runs.run(workdir, preset, events=events, **changes)
  before = plan[0]
  return before, compilations(caplog)[len(before) :]


SMALL = {
  "sft__update_steps": 2,
  "sft__validate_every": 0,
  "srl__update_steps": 2,
  "srl__validate_every": 0,
  # No evaluation, whose rollouts are programs of their own.
  "data__test_size": 0,
}


@pytest.mark.filterwarnings("ignore")
def test_sft_runs_the_programs_of_its_plan(runs, tmp_path, caplog, capsys):
  before, after = logged(runs, tmp_path / "run", "sft", caplog, **SMALL)
  # Steps and solutions have shapes of their own.
  assert before == ["accumulate", "accumulate", "finish"]
  assert after == []
  lines = capsys.readouterr().out.splitlines()
  plan = [line for line in lines if "fits (" in line]
  assert [line.split("   ")[0] for line in plan] == [
    "sft: update: accumulate",
    "sft: update: accumulate",
    "sft: update: finish",
  ]


@pytest.fixture(scope="module")
def start(runs):
  """A model that knows the format, so that rewards differ."""
  folder = runs.run(runs.folder / "plan_start", "sft").workdir
  return {
    "weights": str(folder / "model"),
    "tokenizer__path": str(folder / "tokenizer.model"),
    "tokenizer__train_vocab_size": 0,
  }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
  "adapters", [0, pytest.param(4, marks=pytest.mark.slow)]
)
def test_rl_runs_the_programs_of_its_plan(
  runs, start, tmp_path, caplog, adapters
):
  changes = SMALL | start | {"model__lora__rank": adapters}
  before, after = logged(runs, tmp_path / "run", "srl", caplog, **changes)
  assert before == ["prefill", "decode", "accumulate", "finish"]
  # Validation has as many points as the longest trajectory; so has training.
  assert after == []


@pytest.mark.filterwarnings("ignore")
def test_rows_of_one_trunk_are_in_the_plan(
  runs, start, tmp_path, caplog, monkeypatch
):
  monkeypatch.setattr(pack_shapes, "_LONG_TRUNK", 1)
  changes = SMALL | start
  before, after = logged(runs, tmp_path / "run", "srl", caplog, **changes)
  both = ["accumulate", "accumulate"]
  assert before == ["prefill", "decode", *both, "finish"]
  assert after == []


@pytest.mark.filterwarnings("ignore")
def test_rounds_that_share_slots_run_the_programs_of_their_plan(
  runs, start, tmp_path, caplog
):
  changes = SMALL | start | {"srl__sampling__rows": 2}
  before, after = logged(runs, tmp_path / "run", "srl", caplog, **changes)
  assert before == ["admit", "segment", "accumulate", "finish"]
  # The sampler of the validation at the end.
  assert after == ["prefill", "decode"]


@pytest.mark.filterwarnings("ignore")
def test_a_fused_step_is_the_program_of_its_plan(runs, start, tmp_path, caplog):
  changes = SMALL | start
  changes |= {
    "device_reward__on": "device",
    "srl__dynamic_sampling__refill": False,
    "srl__fuse": True,
    "srl__passes": 1,
  }
  before, after = logged(runs, tmp_path / "run", "srl", caplog, **changes)
  assert before == ["update"]
  # The sampler of the validation at the end.
  assert after == ["prefill", "decode"]


def test_what_lives_beside_a_program_counts():
  class Known(Program):
    def memory(self):
      return Memory(40, 30, 10, self.beside_bytes, 3.0)

  def line(beside_bytes):
    program = Known("rollout", None, (), None, "lower it", beside_bytes)
    return memory.try_program(program, 100)

  text, fits = line(20)
  assert fits and text.endswith("fits (3 s to compile)")
  text, fits = line(21)
  assert not fits and text.endswith("does not fit; lower it")


def test_what_the_compiler_refuses_ends_the_run_after_its_whole_plan(
  runs, start, tmp_path, capsys, monkeypatch
):
  compile_it = jax.stages.Lowered.compile

  def refuse_prefill(lowered):
    if lowered.as_text().startswith("module @jit_prefill"):
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")
    return compile_it(lowered)

  monkeypatch.setattr(jax.stages.Lowered, "compile", refuse_prefill)
  with pytest.raises(ValueError, match="memory for 'rollout: prefill' of srl;"):
    runs.run(tmp_path / "run", "srl", **SMALL | start)
  plan = [x for x in capsys.readouterr().out.splitlines() if "fit" in x]
  assert [re.split(r"  +", line)[0] for line in plan] == [
    "srl: rollout: prefill",
    "srl: update: accumulate",
    "srl: update: finish",
  ]
  refusal = "does not fit: RESOURCE_EXHAUSTED: no room; lower c.srl.sampling."
  assert refusal in plan[0]
  assert all("fits (" in line for line in plan[1:])


def test_one_part_of_a_round_waits_while_another_is_decoded(
  runs, start, tmp_path
):
  def beside(parts):
    config = runs.config("srl", srl__sampling__parts_per_round=parts, **start)
    mesh = tiny.small_mesh()
    with runs.quickly(), jax.set_mesh(mesh):
      run = loading.load_run(config, mesh, tmp_path)
      stage = rl.RlStage(run, "srl", config.srl)
      stage.prepare(initial_weights.initial_params(run))
      prefill, decode = itertools.islice(stage.plan(), 2)
      waiting = memory.bytes_per_device(prefill.outputs())
      params = memory.bytes_per_device(prefill.args[0])
    return decode.beside_bytes - prefill.beside_bytes - params, waiting

  assert beside(1)[0] == 0
  for parts in (2, 8):
    extra, waiting = beside(parts)
    assert extra == waiting > 0


def test_memory_is_that_of_the_arrays():
  mesh = tiny.small_mesh()
  here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  x = jax.ShapeDtypeStruct((3, 2**20), np.float32, sharding=here)
  program = Program(
    "rollout",
    jax.jit(lambda x: (x + 1, x[0]), donate_argnums=0),
    (x,),
    mesh,
    "",
    7,
  )
  found = program.memory()
  # The first result takes the place of the argument.
  assert (found.argument, found.beside) == (3 * 2**22, 7)
  # And a table of two pointers.
  assert found.output == pytest.approx(2**22, abs=64)
  assert [y.shape for y in program.outputs()] == [(3, 2**20), (2**20,)]
  assert {y.sharding for y in program.outputs()} == {here}
  assert memory.bytes_per_device(program.outputs()) == 4 * 2**22
