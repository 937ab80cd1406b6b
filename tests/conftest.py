# SPDX-License-Identifier: Apache-2.0
"""Test environment: eight CPU devices, set before anything imports JAX."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
# XLA's pool has a thread per core. With fewer threads than devices, JAX 0.10
# hangs in a collective as soon as a few steps are in flight: 8 of 10 runs of a
# small training loop on two cores, and none of 12 with this.
os.environ["PJRT_NPROC"] = "32"
