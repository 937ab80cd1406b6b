# SPDX-License-Identifier: Apache-2.0
"""Commands that start processes here, or compile for TPUs elsewhere."""
