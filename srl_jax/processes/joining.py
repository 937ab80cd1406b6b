# SPDX-License-Identifier: Apache-2.0
"""How the processes of a run find each other."""

from __future__ import annotations

import jax


def join(
  address: str | None,
  processes: int | None,
  process: int | None,
  *,
  join_s: int = 300,
  lost_host_s: int = 30,
) -> None:
  """Joins the other processes of a run; all on one machine stay in it.

  Args:
    address: host:port of process 0.
    processes: number of processes.
    process: number of this process.
    join_s: seconds to wait for the others. JAX then aborts this process.
    lost_host_s: seconds without a heartbeat after which a process counts as
      lost. JAX then aborts the others, which may wait in a collective.
  """
  is_local = (address or "").startswith(("localhost:", "127.0.0.1:"))
  jax.distributed.initialize(
    address,
    processes,
    process,
    # By default the coordinator listens to all networks, and trusts them.
    coordinator_bind_address=address if is_local else None,
    initialization_timeout=join_s,
    heartbeat_timeout_seconds=lost_host_s,
  )
