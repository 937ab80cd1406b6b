# SPDX-License-Identifier: Apache-2.0
"""The coordinator of a local run is not to be reached from elsewhere."""

import pathlib
import socket
import subprocess
import sys

import pytest

JOIN = """
import sys
from srl_jax import main
main.join(sys.argv[1], 1, 0)
print("joined", flush=True)
sys.stdin.readline()
"""
_LISTENS = "0A"
_NOWHERE_ELSE = {
  "0100007F",
  "00000000000000000000000001000000",
  "0000000000000000FFFF00000100007F",
}


def listening_addresses(port):
  """Addresses, as the kernel writes them, on which the port is open."""
  for name in ("tcp", "tcp6"):
    lines = pathlib.Path("/proc/net", name).read_text().splitlines()[1:]
    for local, _, state in (line.split()[1:4] for line in lines):
      address, _, number = local.partition(":")
      if state == _LISTENS and int(number, 16) == port:
        yield address


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_coordinator_of_a_local_run_listens_on_localhost_only():
  with socket.socket() as probe:
    probe.bind(("localhost", 0))
    port = probe.getsockname()[1]
  with subprocess.Popen(
    [sys.executable, "-c", JOIN, f"localhost:{port}"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      assert process.stdout.readline() == "joined\n"
      found = set(listening_addresses(port))
      assert found and found <= _NOWHERE_ELSE
    finally:
      process.kill()
