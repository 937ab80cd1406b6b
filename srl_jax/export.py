# SPDX-License-Identifier: Apache-2.0
"""Writes a run's model as a Hugging Face checkpoint, or its adapters for PEFT.

  srl_jax export --workdir=/tmp/srl --out=/tmp/srl_hf
  srl_jax export --workdir=/tmp/srl --out=DIR --stage=srl --step=200
  srl_jax export --workdir=/tmp/srl --out=DIR --adapter

Any machine works, whatever the mesh of the run: parameters are split over this
machine's devices. The data are not needed, and the weights that the run started
from only to merge adapters, or to name those of a Gemma 3. A finished run
already has its model in workdir/model; this command is for other update steps,
other dtypes, unfinished runs, and adapters.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from srl_jax import (
  compilation_cache,
  initial_weights,
  loading,
  progress,
  saving,
  sharding,
  storage,
)
from srl_jax.arguments import HelpFormatter, errors_in_one_line
from srl_jax.checkpoint import Checkpointer
from srl_jax.models import lora, peft
from srl_jax.train.stage import Run


def export(
  workdir: pathlib.Path,
  out: pathlib.Path,
  *,
  stage: str = "",
  step: int = 0,
  dtype: str = "",
  adapter: bool = False,
) -> None:
  """Writes a Hugging Face checkpoint folder.

  Args:
    workdir: folder of the run.
    out: folder to write; must not exist.
    stage: stage whose parameters are written; by default the last one that has
      begun.
    step: update step of the checkpoint; by default the best validated one.
    dtype: dtype of the weights; by default the one the model computes in.
    adapter: True writes the adapters alone, in PEFT's format.

  Raises:
    ValueError: there is no run, no such stage or step, `out` exists, or
      adapters are asked for in another dtype.
  """
  workdir, out = storage.path(workdir), storage.path(out)
  if adapter and dtype:
    raise ValueError(
      f"--dtype={dtype} is for whole models, and --adapter writes float32, in "
      "which adapters are trained; leave one of them out"
    )
  if out.exists():
    raise ValueError(
      f"--out={out} exists already; remove it, or give another folder"
    )
  config = loading.on_this_machine(loading.read_run_config(workdir))
  mesh = sharding.make_mesh(config.mesh)
  with jax.set_mesh(mesh):
    run = loading.load_saved(config, mesh, workdir)
    params = _trained(run, workdir, stage, step)
    if adapter:
      peft.save_adapters(out, params, run.policy, base=config.weights)
      return
    if run.policy.config.lora.rank:
      # A checkpoint holds the adapters alone.
      base = initial_weights.base_params(run, config, workdir)
      params = lora.with_trained(base, params)
    dtype = dtype or run.policy.config.dtype
    saving.save_model(out, params, run, config, dtype)
    if config.tokenizer.kind != "huggingface":
      _tell_of_tokenizer(out, run)


def _tell_of_tokenizer(out: pathlib.Path, run: Run) -> None:
  """Says where other software would take other tokens for a text."""
  if not (out / saving.FAST_TOKENIZER).is_file():
    progress.warn(
      f"there is no {saving.FAST_TOKENIZER} with the token ids of this run's "
      "tokenizer, and other software may take a wrong one without a word; "
      "send it token ids, or use srl_jax serve"
    )
  elif run.policy.config.qkv_bias:
    progress.say(
      "note: for this model type, qwen2, AutoTokenizer of transformers 5 takes "
      "another tokenizer than the folder's; docs/models.md, under Serve it "
      "elsewhere, says what to do"
    )


def _trained(run: Run, workdir: pathlib.Path, stage: str, step: int) -> Any:
  """Returns the trained parameters of a checkpoint."""
  folders = {
    path.name.partition("_")[2]: path
    for path in sorted((workdir / "stages").glob("*_*"))
    if path.is_dir()
  }
  if not folders or (stage and stage not in folders):
    raise ValueError(
      f"the run in {workdir} has no checkpoints"
      + (f" of --stage={stage}" if stage else "")
      + f" (stages with some: {', '.join(folders) or 'none'})"
    )
  stage = stage or list(folders)[-1]
  wanted = lora.trained(initial_weights.abstract_params(run))
  with Checkpointer(folders[stage], run.checkpoint, read_only=True) as saver:
    if step:
      return saver.restore_params(step, wanted)
    if saver.best() is None:
      raise ValueError(_no_best(stage, list(folders), saver.latest_step()))
    return saver.restore_best(wanted)


def _no_best(stage: str, stages: Sequence[str], latest: int | None) -> str:
  """Says what can be exported of a run whose stage was not validated yet."""
  hints = [f"give --step={latest} for its latest checkpoint"] if latest else []
  before = stages[: stages.index(stage)]
  if before:
    hints.append(f"--stage={before[-1]} for the result of the stage before")
  hints.append("train past the first validation")
  return (
    f"the stage {stage!r} has no validated parameters yet; "
    f"{', or '.join(hints)}"
  )


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command; exits with a message if there is nothing to export."""
  parser = argparse.ArgumentParser(
    prog="srl_jax export",
    description=__doc__,
    formatter_class=HelpFormatter,
  )
  add = parser.add_argument
  add("--workdir", required=True, help="working directory of a run")
  add("--out", required=True, help="folder to write")
  add(
    "--stage", default="", help="sft, srl, rlvr or episodes; default: the last"
  )
  add("--step", type=int, default=0, help="default: the best one validated")
  add(
    "--dtype",
    default="",
    choices=("float32", "bfloat16"),
    help="dtype of the weights; default: what the model computes in",
  )
  add("--adapter", action="store_true", help="the adapters alone, for PEFT")
  args = parser.parse_args(argv)
  with errors_in_one_line():
    compilation_cache.use_default()
    export(**vars(args))
  print(f"wrote {args.out}")


if __name__ == "__main__":
  main()
