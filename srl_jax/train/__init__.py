# SPDX-License-Identifier: Apache-2.0
"""Stages of training and the loop around them."""
