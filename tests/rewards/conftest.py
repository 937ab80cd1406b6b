# SPDX-License-Identifier: Apache-2.0
"""The modules of this folder can be imported, as a user's own are."""

import pathlib

import pytest


@pytest.fixture(autouse=True)
def user_module_is_importable(monkeypatch):
  monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))
