# SPDX-License-Identifier: Apache-2.0
"""Asynchronous all-gathers are told from those that are waited for."""

from launch.tpu import gathers

# As libtpu writes it: the first all-gather begins in one fusion and goes on in
# another, beside a product. The second stands by itself.
HLO = """HloModule jit_f
%fused_computation.1 (p: bf16[8]) -> (bf16[8], bf16[64]) {
  %all-gather.1 = bf16[64]{0} all-gather(%p), channel_id=4, dimensions={0}
}

%async_collective_fusion.2 (p: bf16[8]) -> (f32[9], bf16[64]) {
  %all-gather.2 = bf16[64]{0} all-gather(%p), channel_id=4, dimensions={0}
  %convolution.3 = f32[9]{0} convolution(%x, %y)
}

ENTRY %main (p: bf16[8]) -> bf16[64] {
  %async-collective-start = fusion(%p), calls=%fused_computation.1
  %async-collective-done.1 = fusion(%p), calls=%async_collective_fusion.2
  ROOT %all-gather.4 = bf16[64]{0} all-gather(%p), channel_id=7, dimensions={0}
}
"""


def test_an_all_gather_with_work_in_between_is_counted_once():
  assert gathers.beside_other_work(HLO) == (1, 2)
