# SPDX-License-Identifier: Apache-2.0
"""A profile of update steps: which ones, where it goes, what names it has."""

import re

import jax
import jax.numpy as jnp
import pytest

from srl_jax.train.profile import Profile, ProfileConfig


@jax.jit
def work(x):
  with jax.named_scope("some_stage"):
    return jnp.tanh(x @ x)


def profiled(config, folder, steps=4, fails_at=None):
  """Takes update steps as the loop does; returns the steps of the traces."""
  with Profile(config, folder, "srl") as profile:
    pending = None
    for done in range(1, steps + 1):
      with profile.step(done):
        x = work(jnp.ones((8, 8)))
      if pending:
        profile.finished(pending)
      if done == fails_at:
        raise RuntimeError("stopped")
      x.block_until_ready()
      pending = done
    profile.finished(pending)
  return traced(folder)


def traced(folder):
  [file] = folder.glob("plugins/profile/*/*.xplane.pb")
  found = set()
  for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
    for line in plane.lines:
      for event in line.events:
        stats = dict(event.stats)
        if event.name == "update_step":
          found.add(int(stats["step_num"]))
  return found


def test_the_steps_that_are_asked_for_are_in_the_trace(tmp_path, capsys):
  assert profiled(ProfileConfig(first=2, last=3), tmp_path) == {2, 3}
  assert f"xprof --logdir={tmp_path}" in capsys.readouterr().out


def test_the_trace_is_there_when_the_last_step_was_waited_for(tmp_path):
  with Profile(ProfileConfig(first=1, last=2), tmp_path, "srl") as profile:
    for done in (1, 2, 3):
      with profile.step(done):
        work(jnp.ones((8, 8)))
      # The loop dispatches a step and then waits for the one before.
      profile.finished(done - 1)
      assert bool(list(tmp_path.iterdir())) == (done == 3)
    assert traced(tmp_path) == {1, 2}


def test_without_steps_nothing_is_written(tmp_path):
  with Profile(ProfileConfig(), tmp_path / "profile", "srl") as profile:
    for done in (1, 2):
      with profile.step(done):
        work(jnp.ones((8, 8)))
      profile.finished(done)
  assert not (tmp_path / "profile").exists()


def test_a_run_that_ends_early_leaves_what_there_is(tmp_path):
  with pytest.raises(RuntimeError, match="stopped"):
    profiled(ProfileConfig(first=2, last=9), tmp_path, fails_at=3)
  assert traced(tmp_path) == {2, 3}


@pytest.mark.parametrize("fields", [{"first": 5, "last": 3}, {"first": 0}])
def test_steps_that_are_none_are_refused(fields):
  with pytest.raises(ValueError, match=r"first"):
    ProfileConfig(**fields)


@pytest.mark.slow
def test_operations_of_a_run_are_named_after_the_source(runs, tmp_path):
  # No cache of programs: it holds the names of whoever compiled first.
  jax.config.update("jax_enable_compilation_cache", False)
  runs.forget()
  try:
    runs.run(
      *(tmp_path, "sft"),
      sft__update_steps=3,
      sft__validate_every=3,
      profile__first=2,
      profile__last=2,
      data__test_size=0,
    )
  finally:
    jax.config.update("jax_enable_compilation_cache", True)
    runs.forget()
  folder = tmp_path / "profile" / "sft"
  assert traced(folder) == {2}
  [file] = folder.glob("plugins/profile/*/*.xplane.pb")
  names = b"\n".join(re.findall(rb"jit\(\w+\)/[\w./()]*", file.read_bytes()))
  for part in (
    rb"accumulate/jvp\(sft_loss\)/token_logps/logits",
    rb"transpose\(jvp\(sft_loss\)\)/token_logps/",
    rb"_run/embed/",
    rb"blocks/attention/",
    rb"blocks/mlp/",
    rb"finish/",
  ):
    assert re.search(part, names), part
