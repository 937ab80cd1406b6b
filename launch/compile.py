# SPDX-License-Identifier: Apache-2.0
"""Compiles an experiment for TPUs without having any: does it fit, how fast?

  srl_jax compile --config=experiments/math.py:qwen2_5_7b \
    --topology=v5e:8x8

Any machine with the `tpu` extra will do. The stages that sample are compiled,
or SFT if it is alone. The experiment's data, tokenizer and weights are not
read. --config.key=value tries out another value of a field. The exit status is
0 if every program fits, else 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import jax

from srl_jax import config as config_lib
from srl_jax.arguments import HelpFormatter

from .tpu import drawn, projection


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  parser = argparse.ArgumentParser(
    prog="srl_jax compile",
    description="Compiles an experiment's stages for a TPU topology.",
    formatter_class=HelpFormatter,
    # No abbreviations: config.load refuses every flag that is not known.
    allow_abbrev=False,
  )
  parser.add_argument(
    "--config", required=True, help="as of srl_jax.main: file.py[:preset]"
  )
  parser.add_argument(
    "--topology",
    required=True,
    help="chip and shape, such as v5e:8x8, v6e:8x8 or v5p:4x4x4",
  )
  parser.add_argument(
    "--slices",
    type=int,
    default=1,
    help="slices of that topology, joined by a slower network",
  )
  parser.add_argument(
    "--stem_tokens",
    type=int,
    default=16,
    help="given tokens at the head of a branch",
  )
  parser.add_argument(
    "--target_characters",
    type=int,
    default=1024,
    help="longest expert step, for rewards on the device",
  )
  drawn.add_flags(parser)
  parser.add_argument(
    "--evaluation",
    action="store_true",
    help="compile what the run measures with, too: single steps, whole "
    "problems, suites",
  )
  options, overrides = parser.parse_known_args(arguments)
  if options.slices < 1:
    parser.error(f"--slices is {options.slices}; use 1 or more")
  # Any arrays go to the CPU, so that JAX does not look for a TPU.
  jax.config.update("jax_platforms", "cpu")
  try:
    config = config_lib.load(options.config, overrides)
    sampling = [stage for stage in config.stages if stage != "sft"]
    stages = sampling or config.stages
    fits = [
      projection.report(
        config,
        stage,
        options.topology,
        slices=options.slices,
        stem=options.stem_tokens,
        target=options.target_characters,
        kept=options.kept,
        mean=options.mean_tokens,
        with_evaluation=options.evaluation and stage == stages[-1],
        write=lambda line: print(line, flush=True),
      )
      for stage in stages
    ]
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    return 1
  return 0 if all(fits) else 1


if __name__ == "__main__":
  sys.exit(main())
