# SPDX-License-Identifier: Apache-2.0
"""Fields of problems: all that is particular to each."""
