# SPDX-License-Identifier: Apache-2.0
"""Turns expert trajectories into batches of trunks, with numpy, without JAX.

From files to trajectories:

schema         the JSON form of a Trajectory and its Steps
sources        files -> rows: JSON lines, JSON, Parquet, Arrow, compressed
tables, texts  the rows of a table, and of JSON text
folders        which files of a folder belong together, and to which split
records        rows -> trajectories; what is wrong with one costs no other
readers        the whole of it, with rejects and splits
splits, selection, joining   who goes where; which are left out; longer steps
s1k, markdown, gsm8k         formats with steps of their own
agents/        trajectories of software agents; observations cuts what they saw
checks, build_report         what is told of records and of branch points

From trajectories to batches:

templates      trajectories -> segments of text and control tokens
messages, chat, render       chat templates, rendered in a process with limits
seams          where segments meet, so that no token spans two
prompts        compares prompts with their text tokenised in one piece
trunks         segments -> tokenised trunks with their branch points
batching       trunks -> padded arrays
pipeline       an endless, shuffled, resumable stream of batches

Else:

suites, instances            problems of suites; instances of SWE-bench
prepare, writing, tfds_builders   the command that prepares a dataset
"""
