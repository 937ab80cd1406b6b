# SPDX-License-Identifier: Apache-2.0
"""Measures one device: peaks, rollout, gradient, update step.

Each `measure_*` returns {quantity: value}. gpu.py decides which of them run,
and on which sizes; bytes and operations are those of floor.py.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks import floor, one_device
from benchmarks.measuring import compiled_bytes
from benchmarks.one_device import Engine
from benchmarks.workload import Workload
from srl_jax.models import ModelConfig
from srl_jax.rollout.decode import SamplingConfig
from srl_jax.types import Branches
from srl_jax.update.batch import one_branch_per_lane
from srl_jax.update.grpo import LossConfig
from srl_jax.update.optim import OptimConfig, make_optimizer


class Peaks(NamedTuple):
  """Peak rates that the device reaches; 0 where unknown."""

  bytes_per_s: float = 0.0
  flops_per_s: float = 0.0


class Timing(NamedTuple):
  """Median time of calls, and how far the slowest exceeds the fastest."""

  median_s: float
  spread: float


def timed(call: Callable[[], Any], repeats: int, calls: int = 1) -> Timing:
  """Times a call after a warm-up call; `calls` are queued at a time."""
  jax.block_until_ready(call())
  found = []
  for _ in range(repeats):
    start_s = time.perf_counter()
    for _ in range(calls):
      result = call()
    jax.block_until_ready(result)
    found.append((time.perf_counter() - start_s) / calls)
    del result
  return Timing(statistics.median(found), max(found) / min(found) - 1)


def measure_peaks(
  device: jax.Device, copy_bytes: int, product: int, repeats: int
) -> dict[str, float]:
  """Measures copy bandwidth (bytes read plus written) and product rate.

  Args:
    device: the device.
    copy_bytes: bytes of the array that is copied.
    product: rows and columns of the multiplied matrices.
    repeats: number of timed turns.
  """
  key = jax.device_put(jax.random.key(0), device)
  x = jax.random.normal(key, (copy_bytes // 4,))
  found = {}
  for name, function in (("copy", jnp.copy), ("negation", jnp.negative)):
    call = functools.partial(jax.jit(function), x)
    once = timed(call, repeats, calls=10)
    found[f"memory, {name}, GB/s"] = 2 * copy_bytes / once.median_s / 1e9
  # The call holds the array.
  del call
  del x
  a, b = jax.random.normal(key, (2, product, product), jnp.bfloat16)
  multiply = timed(functools.partial(jax.jit(jnp.dot), a, b), repeats, calls=10)
  found["memory, GB/s"] = max(found.values())
  found["bfloat16 product, TFLOP/s"] = 2 * product**3 / multiply.median_s / 1e12
  found["product, spread"] = multiply.spread
  return found


def measure_rollout(
  engine: Engine,
  work: Workload,
  peaks: Peaks,
  repeats: int,
  sampled: list[Branches],
) -> dict[str, float]:
  """Measures prefill and decoding; leaves the samples in `sampled`."""
  model = engine.policy.config
  trunks = engine.put(one_device.make_trunks(work, model.vocab_size))
  sampler = engine.sampler(SamplingConfig(work.samples, work.new_tokens))
  with engine.placed():
    start_s = time.perf_counter()
    prefill = sampler.prefill.lower(engine.params, trunks).compile()
    arguments = (prefill(engine.params, trunks), trunks, jax.random.key(0))
    program = sampler.decode.lower(*arguments).compile()
    compile_s = time.perf_counter() - start_s
  arguments = jax.device_put(arguments, program.input_shardings[0])
  prefill_time = timed(lambda: prefill(engine.params, trunks), repeats)
  decode_time = timed(lambda: program(*arguments), repeats)
  sampled.append(jax.device_get(program(*arguments)[0]))
  iteration_s = decode_time.median_s / floor.iterations(work)
  read = floor.turn_bytes(model, work)
  flops = sum(floor.prefill_flops(model, work))
  prompt_tokens = work.trajectories * floor.trunk_tokens(work)
  return {
    "parameters, M": floor.parameters(model) / 1e6,
    "compilation of the rollout, s": compile_s,
    "program, GB": compiled_bytes(program) / 1e9,
    "prefill, s": prefill_time.median_s,
    "prefill, tokens/s": prompt_tokens / prefill_time.median_s,
    "prefill, share of product": _share(
      flops / prefill_time.median_s, peaks.flops_per_s
    ),
    "decode, s": decode_time.median_s,
    "decode, spread": decode_time.spread,
    "iteration, ms": 1e3 * iteration_s,
    "decode, tokens/s": work.branches / iteration_s,
    "read per iteration: weights, GB": read.weights / 1e9,
    "read per iteration: trunk KV, GB": read.trunk_kv / 1e9,
    "read per iteration: branch KV, GB": read.branch_kv / 1e9,
    "decode, GB/s": read.total / iteration_s / 1e9,
    "decode, share of copy": _share(
      read.total / iteration_s, peaks.bytes_per_s
    ),
    "logits per iteration, not counted, GB": read.logits / 1e9,
  }


def measure_update(
  engine: Engine,
  work: Workload,
  loss: LossConfig,
  trunks: int,
  peaks: Peaks,
  repeats: int,
  sampled: Sequence[Branches],
) -> dict[str, float]:
  """Measures the gradient of a micro-batch; see `floor.update_flops`.

  With samples of the rollout instead of random ones, it also reports the
  difference between the log-probs of trainer and sampler.
  """
  model = engine.policy.config
  start_s = time.perf_counter()
  program, call = gradient_program(engine, work, loss, trunks, sampled)
  compile_s = time.perf_counter() - start_s
  metrics = jax.device_get(call()[1])
  once = timed(call, repeats)
  batch = dataclasses.replace(work, trajectories=trunks)
  needed, executed = floor.update_flops(model, batch)
  tokens = trunks * (
    floor.trunk_tokens(work)
    + work.steps * work.samples * floor.iterations(work)
  )
  rate = needed / once.median_s, executed / once.median_s
  found = {
    "tokens": tokens,
    "compilation, s": compile_s,
    "program, GB": compiled_bytes(program) / 1e9,
    "gradient, s": once.median_s,
    "gradient, spread": once.spread,
    "tokens/s": tokens / once.median_s,
    "needed, TFLOP": needed / 1e12,
    "with recomputation, TFLOP": executed / 1e12,
    "needed, TFLOP/s": rate[0] / 1e12,
    "needed, share of product (MFU)": _share(rate[0], peaks.flops_per_s),
    "with recomputation, share": _share(rate[1], peaks.flops_per_s),
  }
  if sampled:
    gap = metrics.logp_gap
    mean = float(gap.numerator.sum() / gap.denominator.sum())
    found["sampler - trainer log-prob, mean nats"] = mean
    found["sampler - trainer log-prob, largest"] = float(metrics.logp_gap_max)
  return found


def gradient_program(
  engine: Engine,
  work: Workload,
  loss: LossConfig,
  trunks: int,
  sampled: Sequence[Branches],
) -> tuple[jax.stages.Compiled, Callable[[], Any]]:
  """Returns the compiled gradient of a micro-batch, and a call of it.

  The call returns (denominator, metrics).
  """
  vocab_size = engine.policy.config.vocab_size
  branches = (
    sampled[0] if sampled else one_device.random_branches(work, vocab_size)
  )
  experience = one_device.make_batch(work, vocab_size, branches, trunks)
  batch = engine.put(one_branch_per_lane(experience))
  with engine.placed():
    updater = engine.updater(loss, optax.sgd(0.0))
    # Sums are donated: each call gets those of the call before.
    sums = [updater.zeros()]
    program = updater.accumulate.lower(
      engine.params, {}, sums[0], batch, None
    ).compile()

  def call():
    sums[0], metrics = program(engine.params, {}, sums[0], batch, None)
    return sums[0][1], metrics

  return program, call


# (name, optimizer, bytes per parameter of its state), from the best on.
OPTIMIZERS = (
  ("AdamW, float32 moments", make_optimizer(OptimConfig(), 100), 8),
  (
    "AdamW, bfloat16 first moment",
    make_optimizer(OptimConfig(moment_dtype="bfloat16"), 100),
    6,
  ),
  ("gradient descent, no moments", optax.sgd(1e-6), 0),
)


def measure_optimizer(
  engine: Engine,
  optimizer: optax.GradientTransformation,
  repeats: int,
) -> dict[str, float]:
  """Measures the update step after the gradients; consumes the engine."""
  with engine.placed():
    updater = engine.updater(LossConfig(), optimizer)
    sums = updater.zeros()
    state = [updater.init(engine.params)]
    engine.params = None

    def call():
      state[0], metrics = updater.finish(state[0], sums, jnp.int32(0))
      return metrics

    once = timed(call, repeats)
  return {"update step, s": once.median_s, "spread": once.spread}


def fitting_optimizers(model: ModelConfig, limit_bytes: float) -> list[int]:
  """Returns the OPTIMIZERS that may fit beside parameters and sums."""
  size = floor.parameters(model)
  # A bfloat16 parameter has a float32 copy beside it.
  of_parameter = 2 + 4 if model.param_dtype == "bfloat16" else 4
  return [
    i
    for i, (_, _, state) in enumerate(OPTIMIZERS)
    if size * (of_parameter + 4 + state) < limit_bytes
  ]


def _share(rate: float, peak: float) -> float:
  return rate / peak if peak else 0.0
