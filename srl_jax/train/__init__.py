# SPDX-License-Identifier: Apache-2.0
"""Stages of training and the loop around them.

loop.py trains stage after stage; sft.py, rl.py and outcomes.py are the stages,
data.py their data. An update step of rl.py is one program (fused.py) or made of
pieces (piecewise.py), whose rounds may overlap (together.py, ahead.py).
"""
