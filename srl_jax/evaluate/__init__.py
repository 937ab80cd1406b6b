# SPDX-License-Identifier: Apache-2.0
"""Measures how good a model is at single steps and at whole solutions."""
