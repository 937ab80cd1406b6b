# SPDX-License-Identifier: Apache-2.0
"""A folder of its own in a bucket, for each test."""

import re

import pytest

from srl_jax import storage


@pytest.fixture
def folder(bucket, request):
  name = re.sub(r"\W", "_", request.node.name)
  return storage.path(f"{bucket}/{name}")
