# SPDX-License-Identifier: Apache-2.0
"""Micro-batches written by hand, for a scripted policy.

The script has one row of logits per last token, so the gradient of the
log-prob of a token is (1 at that token, minus the probabilities) in its row.
"""

from __future__ import annotations

import numpy as np

from srl_jax.testing.tiny import make_trunk, make_trunks
from srl_jax.types import make_branches
from srl_jax.update.batch import Experience
from tests.support import scripted

V = 4
# Probabilities after token 0; after the other tokens they are uniform.
P = np.array([0.4, 0.3, 0.2, 0.1])
LOGP_VV = np.log(np.stack([P, *[np.full(V, 0.25)] * 3])).astype(np.float32)
SCRIPT = scripted.after_token(LOGP_VV)
# Tolerance of logarithms and exponentials in float32.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def groups(rows, rewards, *, sampler_logp=None, trunk=(1,), points=1):
  """Returns a micro-batch of given completions.

  Args:
    rows: rows[n][k][g] is a completion after the stem [0]; a group None is a
      padding point.
    rewards: rewards [n][k][g]; any value at padding points.
    sampler_logp: log-prob of all completion tokens; None takes the script's.
    trunk: tokens of each trunk.
    points: number of branch points of each trunk.
  """
  trunks = [
    make_trunk(
      trunk,
      *[
        (1, [0], 10 * n + k) for k, group in enumerate(row) if group is not None
      ],
    )
    for n, row in enumerate(rows)
  ]
  trunks = make_trunks(trunks, points=points)
  samples = np.shape(rewards)[-1]
  flat = [
    [completion for group in row for completion in group or [None] * samples]
    for row in rows
  ]
  width = 1 + max(len(c or ()) for row in flat for c in row)
  shape = (len(flat), len(flat[0]))
  tokens_NRC = np.zeros((*shape, width), np.int32)
  length_NR = np.zeros(shape, np.int32)
  logp_NRC = np.zeros((*shape, width), np.float32)
  for n, r in np.ndindex(shape):
    if flat[n][r] is not None:
      tokens = [0, *flat[n][r]]
      length_NR[n, r] = len(tokens)
      tokens_NRC[n, r, : len(tokens)] = tokens
      own = LOGP_VV[tokens[:-1], tokens[1:]]
      logp_NRC[n, r, 1 : len(tokens)] = (
        own if sampler_logp is None else sampler_logp
      )
  return Experience(
    trunks=trunks,
    branches=make_branches(
      tokens_NRC=tokens_NRC,
      stem_length_NR=np.ones_like(length_NR),
      length_NR=length_NR,
      sampler_logp_NRC=logp_NRC,
      stopped_NR=length_NR > 0,
    ),
    reward_NKG=np.asarray(rewards, np.float32),
  )
