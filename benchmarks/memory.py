# SPDX-License-Identifier: Apache-2.0
"""Resident memory of this process, without any library; 0 outside Linux."""

from __future__ import annotations

import ctypes
import os


def reset_peak_rss() -> int:
  """Resets Linux's peak of memory; returns the present RSS in bytes."""
  if not os.path.exists("/proc/self/clear_refs"):
    return 0
  # Memory that earlier calls freed would else be reused without a rise.
  libc = ctypes.CDLL(None)
  if hasattr(libc, "malloc_trim"):
    libc.malloc_trim(0)
  with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
  return _status_bytes("VmRSS")


def peak_rss() -> int:
  """Returns the largest RSS in bytes since the start or the last reset."""
  return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
  if not os.path.exists("/proc/self/status"):
    return 0
  with open("/proc/self/status") as file:
    [line] = [line for line in file if line.startswith(field)]
  return int(line.split()[1]) * 1024
