# SPDX-License-Identifier: Apache-2.0
"""A server for a model, by OpenAI's protocol: `srl_jax serve`."""
