# SPDX-License-Identifier: Apache-2.0
"""Reads expert trajectories of software agents, whoever recorded them.

records    a record of any known shape -> messages
values     texts, parts and calls in records
events     the events of OpenHands
atif       the Agent Trajectory Interchange Format
messages   messages -> the steps of a trajectory

A step is one action, in the grammar of srl_jax.domains.software.actions
whatever the source wrote. The expert's words before it become its thought, and
what the environment answered its observation. Tools that differ only in name
get the names of SWE-agent. The problem is the issue alone, without the source's
instructions on how to write actions.
"""

from srl_jax.data.agents.records import parse

__all__ = ["parse"]
