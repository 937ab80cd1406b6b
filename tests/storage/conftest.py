# SPDX-License-Identifier: Apache-2.0
"""A folder of its own in a bucket, for each test."""

import pytest

from srl_jax import storage


@pytest.fixture
def folder(bucket, request):
  return storage.path(f"{bucket}/{request.node.name}")
