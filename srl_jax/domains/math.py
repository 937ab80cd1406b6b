# SPDX-License-Identifier: Apache-2.0
"""The domain of mathematics problems: answers are numbers or expressions."""

from srl_jax.domains import general

MATH = general.of_subject("math", "mathematics problems")
