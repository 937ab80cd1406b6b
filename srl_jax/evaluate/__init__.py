# SPDX-License-Identifier: Apache-2.0
"""How good a model is: single steps and whole solutions."""
