# SPDX-License-Identifier: Apache-2.0
"""What a pod is called and made of, and the files that bring one up."""
