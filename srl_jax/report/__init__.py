# SPDX-License-Identifier: Apache-2.0
"""Shows results to people as tables, samples and curves."""
