# SPDX-License-Identifier: Apache-2.0
"""Expert trajectories in, batches of trunks out. numpy only, never JAX.

schema         Trajectory and Step, and their JSON form
readers        files -> trajectories, with rejects and splits
s1k            the parser of s1K-1.1's numbered, bold-titled steps
templates      trajectories -> segments of text and control tokens
trunks         segments -> tokenised trunks with their branch points
batching       trunks -> padded arrays
pipeline       an endless, shuffled, resumable stream of batches
tfds_builders  trajectories <-> TFDS datasets (array_record)
prepare        the command that prepares and shows a dataset
"""
