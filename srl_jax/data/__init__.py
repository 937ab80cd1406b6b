# SPDX-License-Identifier: Apache-2.0
"""Turns expert trajectories into batches of trunks, with numpy, without JAX.

schema         the JSON form of a Trajectory and its Steps
readers        files -> trajectories, with rejects and splits
s1k            the parser of s1K-1.1's numbered, bold-titled steps
chat           chat templates, cut around the user's text
render         renders them, in a process with limits
seams          where segments meet, so that no token spans two
templates      trajectories -> segments of text and control tokens
trunks         segments -> tokenised trunks with their branch points
prompts        compares prompts with their text tokenised in one piece
batching       trunks -> padded arrays
pipeline       an endless, shuffled, resumable stream of batches
tfds_builders  trajectories <-> TFDS datasets (array_record)
prepare        the command that prepares and shows a dataset
"""
