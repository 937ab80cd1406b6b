# SPDX-License-Identifier: Apache-2.0
"""A child that does what its messages say: see test_children.py."""

import os
import time

from srl_jax.processes.children import serve_lines


def answer(message):
  """Does one of the things that untrusted code may do."""
  kind, value = message
  if kind == "echo":
    print("a library that prints")
    return value
  if kind == "memory":
    try:
      return len(bytes(value))
    except MemoryError:
      return "MemoryError"
  if kind == "power":
    return 10 ** (10**value) > 0
  if kind == "sleep":
    time.sleep(value)
  if kind == "exit":
    os._exit(value)
  return None


if __name__ == "__main__":
  serve_lines(lambda: answer, cpu_s=0.5, max_bytes=1 << 30)
