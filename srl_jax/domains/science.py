# SPDX-License-Identifier: Apache-2.0
"""Science problems; s1K-1.1 tells them from those of mathematics."""

from srl_jax.domains import general

SCIENCE = general.of_subject("science", "science problems")
