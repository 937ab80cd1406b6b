# SPDX-License-Identifier: Apache-2.0
"""The loss, the groups it is computed on, and one update step."""
