# SPDX-License-Identifier: Apache-2.0
"""Compiles an experiment for TPUs without having any."""
