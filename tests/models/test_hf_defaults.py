# SPDX-License-Identifier: Apache-2.0
"""An entry that is missing has the value that transformers takes for it."""

import copy

import pytest

from srl_jax.models.hf_config import from_hf_config
from tests.support.families import CONFIGS

pytestmark = [
  pytest.mark.parity,
  # Of transformers, not ours.
  pytest.mark.filterwarnings("ignore"),
]


def facts_of_theirs(config):
  """What a config of transformers 5 says of the numbers."""
  layers = config.num_hidden_layers
  # Where there are no kinds of layers, Mistral's window is for all.
  kind = "sliding" if config.model_type == "mistral" else "full_attention"
  kinds = getattr(config, "layer_types", None) or [kind] * layers
  # Qwen's is None where it is off.
  window = getattr(config, "sliding_window", None)
  rope = config.rope_parameters
  of_full = rope.get("full_attention", rope)
  of_local = rope.get("sliding_attention", of_full)
  heads = config.num_attention_heads
  width = getattr(config, "head_dim", None) or config.hidden_size // heads
  return {
    "epsilon": config.rms_norm_eps,
    "head width": width,
    "key heads": config.num_key_value_heads,
    "positions": config.max_position_embeddings,
    "scalar": getattr(config, "query_pre_attn_scalar", width),
    "softcap": getattr(config, "final_logit_softcapping", None) or 0,
    "thetas": (of_full["rope_theta"], of_local["rope_theta"]),
    "tied": config.tie_word_embeddings,
    "windows": [window if x != "full_attention" else None for x in kinds],
  }


def facts_of_ours(model):
  """The same of a ModelConfig."""
  is_local = model.is_local() or (False,) * model.n_layers
  return {
    "epsilon": model.norm_epsilon,
    "head width": model.head_width,
    "key heads": model.n_kv_heads,
    "positions": model.max_positions,
    "scalar": model.query_scalar or model.head_width,
    "softcap": model.logit_softcap,
    "thetas": (model.rope_theta, model.rope_local_theta or model.rope_theta),
    "tied": model.tie_embeddings,
    "windows": [model.sliding_window if x else None for x in is_local],
  }


@pytest.mark.parametrize("family", CONFIGS)
def test_a_missing_entry_is_that_of_transformers(family):
  transformers = pytest.importorskip("transformers", "5")
  # A width that all numbers of heads divide, also the default ones.
  whole = CONFIGS[family] | {"hidden_size": 640, "head_dim": 20}
  compared = 0
  for field in whole.keys() - {"model_type"}:
    rest = {k: v for k, v in whole.items() if k != field}
    try:
      ours = from_hf_config(rest)
    except ValueError:
      continue  # Sizes without which nothing can be said.
    kind = transformers.CONFIG_MAPPING[whole["model_type"]]
    # It writes into what it is given.
    theirs = facts_of_theirs(kind.from_dict(copy.deepcopy(rest)))
    assert facts_of_ours(ours) == theirs, f"without {field}"
    compared += 1
  assert compared >= 5
