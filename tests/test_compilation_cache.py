# SPDX-License-Identifier: Apache-2.0
"""Compiled programs are kept for the next process, where that is possible."""

import os
import subprocess
import sys

import pytest

COMPILES = """
import sys
import jax, jax.monitoring
hits = []
jax.monitoring.register_event_listener(
  lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else 0
)
from srl_jax import compilation_cache, storage
compilation_cache.use_default(*map(storage.path, sys.argv[1:]))
print(jax.config.jax_compilation_cache_dir or "none")
print(jax.config.jax_compilation_cache_max_size)
jax.jit(lambda x: x + 41)(1.0)
print(len(hits), "hits")
"""


@pytest.fixture
def compiles(tmp_path):
  def call(*workdir, **environment):
    inherited = dict(os.environ)
    del inherited["JAX_COMPILATION_CACHE_DIR"]
    done = subprocess.run(
      [sys.executable, "-c", COMPILES, *workdir],
      env=inherited
      | {"XDG_CACHE_HOME": str(tmp_path)}
      | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
      | environment,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "UserWarning" not in done.stderr
    return [*done.stderr.splitlines(), *done.stdout.splitlines()]

  return call


def test_the_second_process_finds_what_the_first_has_compiled(
  compiles, tmp_path
):
  folder = str(tmp_path / "srl_jax" / "compilation")
  assert compiles() == [folder, str(2**30), "0 hits"]
  again = compiles()
  assert again[0] == folder
  assert int(again[2].split()[0]) > 0


def test_an_entry_that_a_kill_cut_short_is_made_again(compiles, tmp_path):
  compiles()
  folder = tmp_path / "srl_jax" / "compilation"
  entries = sorted(folder.glob("*-cache"))
  for entry in entries:
    # JAX writes the file of the last use after the entry.
    entry.write_bytes(entry.read_bytes()[:10])
    entry.with_name(entry.name.removesuffix("cache") + "atime").unlink()
  assert compiles()[2] == "0 hits"
  assert int(compiles()[2].split()[0]) == len(entries)


@pytest.mark.parametrize(
  ("folder", "used"), [("{}/mine", "{}/mine"), ("", "none")]
)
def test_the_users_own_choice_is_left_alone(compiles, tmp_path, folder, used):
  found = compiles(JAX_COMPILATION_CACHE_DIR=folder.format(tmp_path))
  assert found[:2] == [used.format(tmp_path), "-1"]
  assert not (tmp_path / "srl_jax").exists()


def test_a_home_that_cannot_be_written_gives_one_warning(compiles, tmp_path):
  (tmp_path / "file").touch()
  first, *rest = compiles(XDG_CACHE_HOME=str(tmp_path / "file"))
  assert first.startswith("warning: compiled programs are not kept for the")
  assert "set JAX_COMPILATION_CACHE_DIR" in first
  assert rest == ["none", "-1", "0 hits"]


def test_a_chat_keeps_its_programs_for_the_next(tmp_path):
  inherited = dict(os.environ)
  del inherited["JAX_COMPILATION_CACHE_DIR"]
  student = ("--weights=registers_student", "--max_new_tokens=1")
  subprocess.run(
    [sys.executable, "-m", "srl_jax.chat", *student, "^Dy+wEx-yFz-y;?1234"],
    env=inherited | {"XDG_CACHE_HOME": str(tmp_path)},
    check=True,
    capture_output=True,
  )
  assert list((tmp_path / "srl_jax" / "compilation").glob("*-cache"))


def test_programs_of_a_run_in_a_bucket_are_kept_in_it(
  compiles, tmp_path, bucket
):
  folder = f"{bucket}/run/compilation"
  assert compiles(f"{bucket}/run") == [folder, "-1", "0 hits"]
  # Another machine, whose home is empty.
  again = compiles(f"{bucket}/run", XDG_CACHE_HOME=str(tmp_path / "other"))
  assert again[0] == folder
  assert int(again[2].split()[0]) > 0
  assert not (tmp_path / "srl_jax" / "compilation").exists()


def test_a_run_on_this_machine_keeps_programs_for_others(compiles, tmp_path):
  folder = str(tmp_path / "srl_jax" / "compilation")
  assert compiles(str(tmp_path / "run"))[0] == folder
