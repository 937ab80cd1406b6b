# SPDX-License-Identifier: Apache-2.0
"""The sampler: trunks once, then one decoding loop for their branches."""
