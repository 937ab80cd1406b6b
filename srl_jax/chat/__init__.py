# SPDX-License-Identifier: Apache-2.0
"""Asks a model something at the terminal: `srl_jax chat`."""
