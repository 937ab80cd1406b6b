# SPDX-License-Identifier: Apache-2.0
"""Importable fakes and tiny examples; nothing here is used in training."""
