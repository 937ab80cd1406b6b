# SPDX-License-Identifier: Apache-2.0
"""A server for a model, by OpenAI's protocol: `python -m srl_jax.serve`."""
