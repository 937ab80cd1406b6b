# SPDX-License-Identifier: Apache-2.0
"""Functions of arrays: no model, no config, no mesh, no input or output."""
