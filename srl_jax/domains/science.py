# SPDX-License-Identifier: Apache-2.0
"""The domain of science problems, which s1K-1.1 marks as such."""

from srl_jax.domains import general

SCIENCE = general.of_subject("science", "science problems")
