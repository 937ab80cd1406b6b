# SPDX-License-Identifier: Apache-2.0
"""Many runs of one small RL stage at once: seeds and numeric settings.

  python -m srl_jax.seeds --config=experiments/math.py --seeds=8 \
    --workdir=/tmp/seeds --vary=learning_rate=1e-4,3e-4

A whole training run is a pure function here: a scan over fused steps (see
step.py), mapped over seeds and settings, and split over the devices. Each
member is the run that `srl_jax.main` makes with that seed, with one round of
sampling per batch. For models that fit many times over, such as the embedded
one; nothing is saved but the curves.

Writes curves.csv: a row per step and setting with mean and 95% bootstrap
interval over seeds, and the values of every seed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from srl_jax import device_reward, evaluate, loading, optim, sharding, update
from srl_jax import main as main_lib
from srl_jax import step as step_lib
from srl_jax.config import Config, RlConfig
from srl_jax.stage import Run, StageData

# What can differ between members of one program.
SETTINGS = (
  "learning_rate",
  "clip_low",
  "clip_high",
  "temperature",
  "epsilon",
)
CURVES = ("reward", "format_failure", "kept_share", "entropy")


class Member(NamedTuple):
  """A run among many: its seed and its settings (see SETTINGS)."""

  seed: int
  settings: dict[str, float]


class Inputs(NamedTuple):
  """What a member needs, stacked over its T steps.

  Attributes:
    trunks: of each step's round.
    targets: the expert's steps.
    key: of each step's samples.
  """

  trunks: Any
  targets: Any
  key: jax.Array


def default_settings(stage: RlConfig) -> dict[str, float]:
  """The settings as the config has them."""
  return {
    "learning_rate": stage.optim.learning_rate,
    "clip_low": stage.loss.clip_low,
    "clip_high": stage.loss.clip_high,
    "temperature": stage.sampling.temperature,
    "epsilon": stage.dynamic_sampling.epsilon,
  }


def train_member(
  run: Run,
  stage: RlConfig,
  reward: device_reward.DeviceReward,
  params: Any,
  inputs: Inputs,
  settings: dict[str, jax.Array],
) -> dict[str, jax.Array]:
  """Trains one member; pure, so that it can be mapped over inputs and settings.

  Args:
    run: the run.
    stage: its RL stage.
    reward: on the device.
    params: where it starts.
    inputs: of all its steps.
    settings: scalars; see SETTINGS.

  Returns:
    The curves, {name: [T]}; see CURVES.
  """
  loss = dataclasses.replace(
    stage.loss,
    clip_low=settings["clip_low"],
    clip_high=settings["clip_high"],
  )
  of_optim = dataclasses.replace(
    stage.optim, learning_rate=settings["learning_rate"]
  )
  functions = update.step_functions(
    update.grpo_loss(run.policy, loss, settings["temperature"]),
    optim.make_optimizer(of_optim, stage.steps),
    optim.learning_rate(of_optim, stage.steps),
  )
  sampler = run.sampler(stage.sampling, stage.instances.task)
  step = step_lib.fused_step(
    run.policy,
    functions,
    lambda branches, targets: reward(branches, targets)[0],
    sampling=stage.sampling,
    stop_ids=sampler.stop_ids,
    pad_id=sampler.pad_id,
    dynamic=stage.dynamic_sampling,
    trunks_per_micro_batch=stage.trunks_per_micro_batch,
    temperature=settings["temperature"],
    epsilon=settings["epsilon"],
  )

  def take(state, xs):
    number, inputs = xs
    state, metrics = step(
      state, inputs.trunks, inputs.targets, inputs.key, number, None
    )
    ratios = {
      "reward": metrics.rollout.reward,
      "format_failure": metrics.rollout.format_failure,
      "kept_share": metrics.rollout.kept_share,
      "entropy": metrics.batches.entropy,
    }
    return state, {
      name: x.numerator.sum() / jnp.maximum(x.denominator.sum(), 1e-9)
      for name, x in ratios.items()
    }

  numbers = jnp.arange(stage.steps)
  return jax.lax.scan(take, functions.init(params), (numbers, inputs))[1]


def make_members(
  stage: RlConfig, seeds: Sequence[int], vary: dict[str, list[float]]
) -> list[Member]:
  """All seeds with all combinations of the settings that vary."""
  names = list(vary)
  return [
    Member(
      seed,
      default_settings(stage) | dict(zip(names, values, strict=True)),
    )
    for values in itertools.product(*vary.values())
    for seed in seeds
  ]


def train_members(
  config: Config, workdir: pathlib.Path, members: Sequence[Member]
) -> dict[str, np.ndarray]:
  """Trains all members in one program.

  Args:
    config: with one RL stage.
    workdir: for what loading the data leaves.
    members: as many as one likes; split over the devices as far as their
      number divides.

  Returns:
    The curves, {name: [members, T]}.

  Raises:
    ValueError: the stage cannot be one program per step.
  """
  program, arguments = make_program(config, workdir, members)
  return jax.device_get(program(*arguments))


def make_program(
  config: Config, workdir: pathlib.Path, members: Sequence[Member]
) -> tuple[Any, tuple[Any, ...]]:
  """The jitted program of `train_members`, not compiled yet, and what it takes.

  See there for arguments and errors.
  """
  name, stage = _only_stage(config)
  mesh = sharding.make_mesh(config.mesh)
  with jax.set_mesh(mesh):
    run = loading.load_run(config, mesh, workdir)
    found = [_inputs(run, name, stage, member.seed) for member in members]
  params, inputs, keys = zip(*found, strict=True)
  params, inputs = (
    jax.tree.map(lambda *xs: np.stack(xs), *x) for x in (params, inputs)
  )
  reward = device_reward.DeviceReward(
    stage.reward, stage.device_reward, run.tokenizer
  )
  settings = {
    key: jnp.array([member.settings[key] for member in members], jnp.float32)
    for key in SETTINGS
  }

  def of_member(params, trunks, targets, key, settings):
    inputs = Inputs(trunks, targets, key)
    return train_member(run, stage, reward, params, inputs, settings)

  # Not the run's mesh: here members are split, and nothing inside of them.
  devices = jax.devices()
  while len(members) % len(devices):
    devices = devices[:-1]
  spec = jax.sharding.PartitionSpec("members")
  members_mesh = jax.make_mesh(
    (len(devices),),
    ("members",),
    devices=devices,
    axis_types=(jax.sharding.AxisType.Auto,),
  )
  program = jax.jit(
    jax.shard_map(
      jax.vmap(of_member),
      mesh=members_mesh,
      in_specs=spec,
      out_specs=spec,
      check_vma=False,
    )
  )
  arguments = jax.device_put(
    (params, *inputs, jnp.stack(keys), settings),
    jax.sharding.NamedSharding(members_mesh, spec),
  )
  return program, arguments


def _only_stage(config: Config) -> tuple[str, RlConfig]:
  names = [name for name in config.stages if name != "sft"]
  if len(config.stages) != 1 or not names:
    raise ValueError(
      f"the config has the stages {' -> '.join(config.stages)}; many seeds at "
      "once are for one stage of srl or rlvr, which c.weights may start from "
      "what another run has trained"
    )
  stage = getattr(config, names[0])
  if stage.passes > 1 or stage.loss.kl_coefficient:
    raise ValueError(
      f"c.{names[0]}.passes={stage.passes} and loss.kl_coefficient="
      f"{stage.loss.kl_coefficient} are not done for many seeds at once; set "
      "them to 1 and 0"
    )
  reason = device_reward.host_reason(stage.reward, stage.device_reward)
  if reason:
    raise ValueError(f"many seeds at once need rewards on the device: {reason}")
  dynamic = dataclasses.replace(stage.dynamic_sampling, refill=False)
  return names[0], dataclasses.replace(stage, dynamic_sampling=dynamic)


def _inputs(run: Run, name: str, stage: RlConfig, seed: int):
  """Parameters, data and keys of one seed's run, as srl_jax.main has them."""
  config = dataclasses.replace(run.config, seed=seed)
  run = dataclasses.replace(run, config=config)
  data = StageData(
    run,
    name,
    run.train,
    stage.instances,
    batch_size=stage.trunks_per_round,
    validation_trunks=1,
    new_tokens=stage.sampling.max_new_tokens,
  )
  width = device_reward.target_width(data.train)
  steps = []
  for _ in range(stage.steps):
    batch = next(data.batches)
    targets = device_reward.encode_targets(batch, width)
    steps.append((batch.trunks, targets))
  keys = [run.key(name, "sample", step, 0) for step in range(stage.steps)]
  return (
    jax.device_get(loading.initial_params(run)),
    jax.tree.map(lambda *xs: np.stack(xs), *steps),
    jnp.stack(keys),
  )


def write_curves(
  path: pathlib.Path, members: Sequence[Member], curves: dict[str, np.ndarray]
) -> None:
  """One row per setting, curve and step."""
  path.parent.mkdir(parents=True, exist_ok=True)
  seeds = sorted({member.seed for member in members})
  with open(path, "w", newline="") as file:
    writer = csv.writer(file)
    head = ["curve", "step", "mean", "low", "high"]
    writer.writerow([*SETTINGS, *head, *(f"seed_{seed}" for seed in seeds)])
    for setting, rows in _by_setting(members):
      for name, values in curves.items():
        for step, of_seeds in enumerate(values[rows].T):
          mean = evaluate.bootstrap(of_seeds)
          numbers = [mean.value, mean.low, mean.high, *of_seeds]
          numbers = [f"{x:.6g}" for x in numbers]
          writer.writerow([*setting, name, step + 1, *numbers])


def _by_setting(members):
  """Yields (setting, indices of its members)."""
  settings = [tuple(member.settings.values()) for member in members]
  for setting in dict.fromkeys(settings):
    yield setting, [i for i, x in enumerate(settings) if x == setting]


def summary(
  members: Sequence[Member], curves: dict[str, np.ndarray], last: int = 10
) -> str:
  """A line per setting: mean reward of the last steps, over seeds."""
  lines = []
  last = min(last, curves["reward"].shape[1])
  for setting, rows in _by_setting(members):
    final = curves["reward"][rows][:, -last:].mean(1)
    shown = ", ".join(
      f"{name} {value:g}" for name, value in zip(SETTINGS, setting, strict=True)
    )
    lines.append(
      f"{shown}: reward of the last {last} steps {evaluate.bootstrap(final)} "
      f"({len(rows)} seeds)"
    )
  return "\n".join(lines)


def _parse_vary(texts: Sequence[str]) -> dict[str, list[float]]:
  vary = {}
  for text in texts:
    name, equals, values = text.partition("=")
    if not equals or name not in SETTINGS:
      raise ValueError(
        f"--vary={text}: write name=value,value,... with one of the names "
        f"{', '.join(SETTINGS)}"
      )
    try:
      vary[name] = [float(value) for value in values.split(",")]
    except ValueError as error:
      raise ValueError(f"--vary={text}: {error}") from error
  return vary


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description="Trains many seeds and settings of one RL stage at once.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--config", required=True, help="as for srl_jax.main")
  parser.add_argument("--workdir", required=True, help="curves.csv goes here")
  parser.add_argument("--seeds", type=int, default=4, help="seeds 0, 1, ...")
  parser.add_argument(
    "--vary",
    action="append",
    default=[],
    help=f"name=value,value: {', '.join(SETTINGS)}; may be repeated",
  )
  args, overrides = parser.parse_known_args(argv)
  workdir = pathlib.Path(args.workdir)
  try:
    config = main_lib.load_config(args.config, overrides)
    _, stage = _only_stage(config)
    if args.seeds < 1:
      raise ValueError(f"--seeds={args.seeds}; it must be 1 or more")
    members = make_members(stage, range(args.seeds), _parse_vary(args.vary))
    print(
      f"{len(members)} members of {stage.steps} steps on "
      f"{jax.device_count()} device(s), as one program",
      flush=True,
    )
    start_s = time.monotonic()
    curves = train_members(config, workdir, members)
  except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
  write_curves(workdir / "curves.csv", members, curves)
  print(summary(members, curves))
  print(f"{time.monotonic() - start_s:.0f} s; see {workdir / 'curves.csv'}")


if __name__ == "__main__":
  main()
