# SPDX-License-Identifier: Apache-2.0
"""Stages of training and the loop around them.

loop.py trains stage after stage; sft.py, rl.py and outcomes.py are the stages,
data.py their data, rl_config.py the settings of RL. An update step of rl.py is
one program (fused.py) or taken piece by piece (piecewise.py), and its rounds
may share their slots (together.py, ahead.py). What both need is in pieces.py.
"""
