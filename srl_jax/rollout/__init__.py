# SPDX-License-Identifier: Apache-2.0
"""The sampler: trunks once, then one decoding loop for their branches.

Two modules hold the loop. decode.py (with slots.py) samples a batch of trunks
in one program: training's rounds (rounds.py) and evaluation of single steps
(batches.py). segments.py runs a part of the loop, after which rows may change:
requests that come and go (stream.py: suites, episodes, chat, server), and
rounds that share slots (shared.py). Samples are the same in both.
"""
