# SPDX-License-Identifier: Apache-2.0
"""Launchers: they compose command lines and import nothing of the package."""
