# SPDX-License-Identifier: Apache-2.0
"""Processes: children that can be ended, signals, hangs, and their last words.

joining.py lets the processes of a run find each other, stopping.py hears
SIGTERM and Ctrl-C, watchdog.py ends a run that hangs, failures.py says in one
line what a disk or a bucket did, and children.py holds processes that run code
of others.
"""
