# SPDX-License-Identifier: Apache-2.0
"""Attention of a lone stream: pieces and kernels against the plain whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srl_jax.ops import attention, kernels
from srl_jax.ops.attention import Scoring, source_of

N, T, H, M, E = 3, 300, 2, 3, 16
RNG = np.random.default_rng(0)
ARRAYS = [
  RNG.standard_normal((N, 1, T, *heads, E)).astype(np.float32)
  for heads in ((H, M), (H,), (H,))
]
WEIGHTS = RNG.standard_normal(ARRAYS[0].shape).astype(np.float32)
# Padding right, left, and left, right and amid the tokens.
ANYWHERE = np.full((N, 1, T), -1)
ANYWHERE[0, 0, :250] = np.arange(250)
ANYWHERE[1, 0, 40:] = np.arange(260)
ANYWHERE[2, 0, np.r_[5:140, 150:290]] = 7 + np.arange(275)
LENGTHS = np.array([250, 300, 0])[:, None, None]
RIGHT = np.where(np.arange(T) < LENGTHS, np.arange(T), -1)


SCORING = Scoring(0.3)
# What Gemma 2 has beside; 45 positions are less than a block.
CAPPED, WINDOW = Scoring(0.2, softcap=2.0), 45


def whole(q, k, v, at, scoring=SCORING, window=0):
  keys = source_of(k, v, at, at)
  if window:
    keys = keys._replace(first_NRT=at - window + 1)
  return attention.attend(q, [keys], scoring=scoring)


def value_and_grads(attend, at, dtype="float32"):
  """The tokens' outputs, and gradients of a sum over them, as float32."""

  @jax.jit
  def run(arrays):
    def total(arrays):
      out = attend(*arrays, at)
      out = jnp.where((at >= 0)[..., None, None, None], out, 0)
      return (WEIGHTS * out).sum(), out

    return jax.grad(total, has_aux=True)(arrays)

  grads, out = run([jnp.asarray(x, dtype) for x in ARRAYS])
  return [np.asarray(x, np.float32) for x in (out, *grads)]


def assert_same(got, want, error):
  """Within `error` of the largest entry."""
  for a, b in zip(got, want, strict=True):
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, rtol=0, atol=error * abs(b).max())


def with_kernel(kernel, **options):
  return functools.partial(
    attention.attend_causal,
    scoring=SCORING,
    kernel=functools.partial(kernel, **options),
  )


splash = functools.partial(
  with_kernel, kernels.splash, scoring=SCORING, window=0, interpret=True
)
cudnn = functools.partial(
  with_kernel, kernels.cudnn, scale=SCORING.scale, window=0
)


# Sums of 300 float32 terms in another order.
FLOAT32 = 2e-5
# bfloat16 has 8 bits: the queries are rounded anew after the scaling, and
# sums are of weights that the plain way rounds and the kernel does not.
BFLOAT16 = 2e-2


@pytest.mark.parametrize(
  ("block", "dtype"), [(128, "float32"), (512, "bfloat16")]
)
def test_splash_is_plain_attention(monkeypatch, block, dtype):
  # Three blocks of 128, or one of 384: both longer than the stream.
  monkeypatch.setattr(kernels, "_BLOCK", block)
  error = FLOAT32 if dtype == "float32" else BFLOAT16
  want = value_and_grads(whole, ANYWHERE, dtype)
  assert_same(value_and_grads(splash(), ANYWHERE, dtype), want, error)
  # One more key to see would be something else.
  late = np.where(ANYWHERE >= 0, ANYWHERE + 1, -1)
  other = value_and_grads(
    lambda q, k, v, at: attention.attend(
      q, [source_of(k, v, at, late)], scoring=SCORING
    ),
    ANYWHERE,
  )
  assert abs(other[0] - want[0]).max() > 5 * error * abs(want[0]).max()


def test_splash_takes_a_window_and_caps_logits(monkeypatch):
  monkeypatch.setattr(kernels, "_BLOCK", 128)
  # By index, so tokens have to follow each other: no padding between them.
  at = ANYWHERE[[0, 1, 1]]
  options = {"scoring": CAPPED, "window": WINDOW}
  want = value_and_grads(functools.partial(whole, **options), at)
  assert_same(value_and_grads(splash(**options), at), want, FLOAT32)
  for wrong in ({"window": WINDOW + 1}, {"scoring": Scoring(0.2)}):
    other = value_and_grads(functools.partial(whole, **options | wrong), at)
    assert abs(other[0] - want[0]).max() > 100 * FLOAT32


@pytest.mark.parametrize("max_logits", [0, 40_000])
@pytest.mark.parametrize("window", [0, WINDOW])
def test_pieces_are_the_whole(monkeypatch, max_logits, window):
  monkeypatch.setattr(attention, "_PIECE", 64)
  pieces = functools.partial(
    attention.attend_causal,
    scoring=SCORING,
    window=window,
    max_logits=max_logits,
  )
  want = value_and_grads(functools.partial(whole, window=window), ANYWHERE)
  assert_same(value_and_grads(pieces, ANYWHERE), want, FLOAT32)


def compiled(attend, length):
  shapes = [
    jax.ShapeDtypeStruct((1, 1, length, *heads, E), jnp.float32)
    for heads in ((H, M), (H,), (H,))
  ]
  at = jax.ShapeDtypeStruct((1, 1, length), jnp.int32)
  return jax.jit(attend).lower(*shapes, at).compile()


def test_pieces_leave_out_what_lies_above_the_diagonal():
  flops = [
    compiled(attend, 1024).cost_analysis()["flops"]
    for attend in (
      functools.partial(attention.attend_causal, scoring=SCORING),
      whole,
    )
  ]
  assert flops[0] / flops[1] == pytest.approx(5 / 8, abs=0.02)


@pytest.mark.parametrize("window", [0, WINDOW])
def test_cudnn_is_asked_for_plain_attention(monkeypatch, window):
  # Its arguments, carried out by XLA: there is no GPU here.
  attend = jax.nn.dot_product_attention

  def by_xla(*arrays, implementation, **options):
    assert implementation == "cudnn"
    return attend(*arrays, **options, implementation="xla")

  monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
  plain = functools.partial(whole, window=window)
  want = value_and_grads(plain, RIGHT, "bfloat16")
  got = value_and_grads(cudnn(window=window), RIGHT, "bfloat16")
  assert_same(got, want, BFLOAT16)


def test_cudnn_lowers_to_its_kernels(monkeypatch):
  # JAX asks the cuDNN at hand for its version, and here is none.
  fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
  monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)

  def total(q, k, v, at):
    out = cudnn()(q, k, v, at)
    return out.astype(jnp.float32).sum()

  arrays = [jnp.asarray(x, jnp.bfloat16) for x in ARRAYS]
  traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(*arrays, RIGHT)
  text = traced.lower(lowering_platforms=("cuda",)).as_text()
  assert "__cudnn$fmhaSoftmax" in text
  assert "__cudnn$fmhaSoftmaxBackward" in text
  # No square of logits outside of them.
  assert f"{T}x{T}x" not in text


TPU, GPU = "TPU v5 lite", "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
  ("device", "dtype", "width", "want"),
  [
    ("cpu", "bfloat16", 128, None),
    (TPU, "bfloat16", 128, kernels.splash),
    (TPU, "float32", 24, kernels.splash),
    (GPU, "bfloat16", 128, kernels.cudnn),
    (GPU, "float32", 128, None),
    (GPU, "bfloat16", 136, None),
    (GPU, "bfloat16", 36, None),
    ("Tesla V100-SXM2-16GB", "bfloat16", 128, None),
  ],
)
def test_auto_takes_the_kernel_of_the_platform(device, dtype, width, want):
  got = kernels.choose(
    "auto",
    device=device,
    dtype=dtype,
    head_width=width,
    scoring=SCORING,
    window=WINDOW,
  )
  assert getattr(got, "func", got) is want
  if want is kernels.splash:
    options = {"scoring": SCORING, "window": WINDOW, "interpret": False}
    assert got.keywords == options
  if want is kernels.cudnn:
    assert got.keywords == {"scale": SCORING.scale, "window": WINDOW}


def test_a_kernel_can_be_forced_where_it_can_run():
  choose = functools.partial(kernels.choose, head_width=36, scoring=CAPPED)
  assert choose("plain", device=TPU, dtype="bfloat16") is None
  splash = choose("splash", device="cpu", dtype="float32")
  assert splash.func is kernels.splash
  assert splash.keywords["interpret"]
  with pytest.raises(
    ValueError,
    match=r"'cpu', not NVIDIA's and dtype='float32' is not 'bfloat16' and "
    r"head_width=36 is not .* and softcap=2.0 is not 0; set "
    r"c.model.attention_kernel to 'auto' or",
  ):
    choose("cudnn", device="cpu", dtype="float32")
