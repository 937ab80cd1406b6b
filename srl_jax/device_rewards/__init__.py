# SPDX-License-Identifier: Apache-2.0
"""Rewards computed on the device, as functions of arrays."""
