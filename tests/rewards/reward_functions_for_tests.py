# SPDX-License-Identifier: Apache-2.0
"""Reward functions as a user might write them, good and bad."""

import os
import sys
import time


def length(action, target):
  del target
  print("a user's function may print")
  sys.stdin.read()  # and even read
  return len(action)


def in_state(action, target, *, context):
  """Tells what it knows in one number, if the action is the target."""
  state = int(context.steps[-1].observation) + {"+": 1, "-": -1}[action]
  known = 1000 * int(context.answer) + 100 * context.step + 10 * state
  return (known + len(context.thought)) * (action == target)


class _NoSignature:
  """Has no signature to inspect, as some functions written in C."""

  __signature__ = "none"

  def __call__(self, action, target):
    return len(action) / len(target)


no_signature = _NoSignature()


def raises_on_bad(action, target):
  del target
  if "bad" in action:
    raise KeyError("no such key")
  return 1.0


def returns_nan(action, target):
  del action, target
  return float("nan")


def returns_text(action, target):
  del action, target
  return "a lot"


def returns_too_much(action, target):
  del action, target
  return 1e300


def exits(action, target):
  del action, target
  sys.exit(0)


def asks_a_service(action, target):
  try:
    raise ConnectionRefusedError("nobody answers")
  except OSError as error:
    raise ValueError("no judgement") from error


def dies(action, target):
  del target
  if "die" in action:
    os._exit(7)
  return 1.0


def dies_slowly(action, target):
  del action, target
  os.closerange(3, 256)  # hangs up before it ends
  time.sleep(0.5)
  os._exit(7)


def sleeps(action, target):
  del target
  time.sleep(60 if "sleep" in action else 0)
  return 1.0


def modules(action, target):
  """1 if JAX or the tests' main module was imported, 0 if not."""
  del action, target
  heavy = {"jax", "flax", "optax", "orbax", "numpy", "pytest"}
  return float(bool(heavy & set(sys.modules)))


def process_id(action, target):
  del action, target
  return os.getpid()


NOT_A_FUNCTION = 3
