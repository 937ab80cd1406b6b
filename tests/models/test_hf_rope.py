# SPDX-License-Identifier: Apache-2.0
"""The rotary embedding is read from wherever a config.json has it."""

import pytest

from srl_jax.models import RopeScaling
from srl_jax.models.hf_config import from_hf_config, to_hf_config
from tests.support.families import CONFIGS

QWEN = {k: v for k, v in CONFIGS["qwen3"].items() if k != "rope_theta"}
GEMMA = {
  k: v for k, v in CONFIGS["gemma3"].items() if not k.startswith("rope_")
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
BY_LAYER = {
  "full_attention": {"rope_type": "default", "rope_theta": 50.0},
  "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
}


def rope_of(config):
  found = from_hf_config(config)
  return found.rope_theta, found.rope_local_theta, found.rope_scaling


@pytest.mark.parametrize("field", ["rope_scaling", "rope_parameters"])
def test_the_base_may_stand_among_the_parameters(field):
  inner = {field: LINEAR | {"rope_theta": 50.0}}
  want = 50.0, 0.0, RopeScaling("linear", factor=4.0)
  assert rope_of(QWEN | inner) == want
  assert rope_of(QWEN | inner | {"rope_theta": 50}) == want
  assert rope_of(QWEN | inner | {"rope_theta": None}) == want
  assert rope_of(QWEN | {field: LINEAR})[0] == 10_000.0


@pytest.mark.parametrize(
  ("config", "message"),
  [
    # As transformers 4 saves what it has read from a file of version 5.
    (
      QWEN | {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}},
      "rope_theta=10000.0, but it must be 1000000.0, as in the parameters",
    ),
    (
      GEMMA | {"rope_local_base_freq": 7.0, "rope_parameters": BY_LAYER},
      "rope_local_base_freq=7.0, but it must be 70.0, as in the parameters",
    ),
    (
      QWEN | {"rope_scaling": LINEAR, "rope_parameters": {"rope_theta": 1e6}},
      "rope_scaling=.* must be absent beside other rope_parameters",
    ),
    (QWEN | {"rope_parameters": BY_LAYER}, "must be one object"),
    (QWEN | {"rope_scaling": {"factor": 4.0}}, "lacks rope_type in rope_scal"),
    (
      QWEN | {"rope_scaling": LINEAR | {"type": "llama3"}},
      "rope_scaling=.* must be of one type",
    ),
    (
      QWEN | {"rope_parameters": LINEAR | {"partial_rotary_factor": 0.0}},
      "partial_rotary_factor=0.0, but it must be absent",
    ),
    (GEMMA | {"rope_parameters": LINEAR}, "must be an object for each kind of"),
  ],
)
def test_what_two_versions_would_read_differently_is_refused(config, message):
  with pytest.raises(ValueError, match=message):
    from_hf_config(config)


def test_local_layers_have_a_base_of_their_own():
  plain = RopeScaling()
  assert rope_of(GEMMA) == (1e6, 1e4, plain)
  assert rope_of(GEMMA | {"rope_parameters": BY_LAYER}) == (50, 70, plain)
  only = {"rope_parameters": {"full_attention": BY_LAYER["full_attention"]}}
  assert rope_of(GEMMA | only) == (50, 1e4, plain)
  only = {"rope_parameters": {"sliding_attention": {"rope_theta": 70.0}}}
  assert rope_of(GEMMA | only) == (1e6, 70, plain)


def test_local_layers_are_not_scaled_even_with_the_same_base():
  same = GEMMA | {"rope_theta": 1e4, "rope_scaling": LINEAR}
  assert rope_of(same) == (1e4, 1e4, RopeScaling("linear", factor=4.0))
  assert rope_of(GEMMA | {"rope_theta": 1e4}) == (1e4, 0, RopeScaling())
  for config in (same, GEMMA | {"rope_theta": 1e4}):
    read = from_hf_config(config)
    assert from_hf_config(to_hf_config(read, "float32")) == read
