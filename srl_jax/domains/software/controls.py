# SPDX-License-Identifier: Apache-2.0
"""Tests that fail, each in its own way, whatever the code under test does.

They are written beside the hidden tests; see examiner.py. This module never
runs them itself.
"""

CONTROLS = """
import sys
import unittest
import pytest

def test_assert():
  assert 1 == 2

def test_fail():
  pytest.fail("on purpose")

def test_raises():
  with pytest.raises(ValueError):
    pass

def test_exception():
  raise RuntimeError("on purpose")

@pytest.fixture
def broken():
  raise RuntimeError("on purpose")

def test_setup(broken):
  pass

@pytest.fixture
def broken_afterwards():
  yield
  raise RuntimeError("on purpose")

def test_teardown(broken_afterwards):
  pass

class TestCase(unittest.TestCase):
  def test_equal(self):
    self.assertEqual(1, 2)

  def test_true(self):
    self.assertTrue(False)

  def test_raises(self):
    with self.assertRaises(ValueError):
      pass

@pytest.mark.parametrize("name", ["equal", "allclose", "array_equal"])
def test_numpy(name):
  numpy = sys.modules.get("numpy")
  if numpy is None:
    raise RuntimeError("on purpose")
  getattr(numpy.testing, f"assert_{name}")(numpy.ones(2), numpy.zeros(2))
"""
COUNT = 12
