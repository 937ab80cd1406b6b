# SPDX-License-Identifier: Apache-2.0
"""A sandbox, and a folder with the toy repository, for all tests of a file."""

import pytest

from srl_jax.domains.software.sandbox import Sandbox
from tests.domains.software.toy_repository_for_tests import (
  CONFIG,
  write_repository,
)


@pytest.fixture(scope="module")
def sandbox():
  with Sandbox(CONFIG) as sandbox:
    yield sandbox


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_repository(tmp_path_factory.mktemp("repository"))
