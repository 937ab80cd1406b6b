# SPDX-License-Identifier: Apache-2.0
"""Short functions in plain Python, module by module, each with its tests.

X.py holds functions and X_test.py their tests: for each public function f one
function test_f of assertions `f(..) == literal`. bugs/sources.py reads both
as texts. No function reads files or the clock, and none depends on the order
of a set, so that a call gives the same in every process.
"""
