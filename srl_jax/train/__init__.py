# SPDX-License-Identifier: Apache-2.0
"""Stages of training and the loop around them.

stages.py trains stage after stage, and loop.py one of them; sft.py, rl.py and
episodes.py are the stages, data.py their data, rl_config.py the settings of RL.
An update step of rl.py is in rl_update.py, its programs in rl_programs.py, its
warnings in format_watch.py, and its rounds may share their slots
(shared_rounds.py, round_schedule.py). fused.py makes it one program. What both
need is in rl_setup.py.

Beside them, stage.py says what a stage is, problems.py which problems can be
judged, episode_rewards.py what episodes earn, and batch_shapes.py how rows are
divided over devices. memory.py counts the memory of programs, update_log.py
writes the metrics, metric_columns.py explains them, and profile.py traces.
"""
