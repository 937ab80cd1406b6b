# SPDX-License-Identifier: Apache-2.0
"""Launchers: of processes on this machine, of the compiler for others."""
