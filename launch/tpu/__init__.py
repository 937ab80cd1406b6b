# SPDX-License-Identifier: Apache-2.0
"""Compiling an experiment for TPUs that are not here."""
