# SPDX-License-Identifier: Apache-2.0
"""Rewards as functions of arrays, inside a JAX program."""
