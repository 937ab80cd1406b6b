# SPDX-License-Identifier: Apache-2.0
"""Language models as pure functions of parameters and tokens."""

from srl_jax.models.config import LoraConfig, ModelConfig, RopeScaling
from srl_jax.models.transformer import KeyValues, LanguageModel

__all__ = [
  "KeyValues",
  "LanguageModel",
  "LoraConfig",
  "ModelConfig",
  "RopeScaling",
]
