# SPDX-License-Identifier: Apache-2.0
"""Where people watch a run: TensorBoard, Weights & Biases, Trackio."""
