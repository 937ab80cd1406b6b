# SPDX-License-Identifier: Apache-2.0
"""The benchmark of whole steps counts right and compares like with like."""

import dataclasses
import io
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import engine, floor, ours, profile, worker, workload
from benchmarks.models import MODELS
from benchmarks.workload import Workload
from srl_jax.models import ModelConfig
from srl_jax.ops import advantages
from srl_jax.rollout.rounds import Round
from srl_jax.types import Branches, Scores, SlotUse

MODEL = ModelConfig(
  vocab_size=40,
  d_model=16,
  n_layers=1,
  n_heads=2,
  n_kv_heads=1,
  head_width=8,
  d_mlp=16,
)
# Prompts of 3 and 8 tokens and a stem of 2.
WORK = Workload(
  trajectories=2,
  steps=2,
  samples=2,
  problem_tokens=3,
  step_tokens=5,
  stem_tokens=2,
  new_tokens=4,
)
SMALLER_WORK = [
  f"--{name}={value}" for name, value in dataclasses.asdict(WORK).items()
]


def test_the_operations_of_a_step_are_those_computed_by_hand():
  # Weights per token: q and o 16 x 16, k and v 16 x 8, mlp 3 x 16 x 16: 1,536.
  # One trunk of 8 tokens and 8 * 9 / 2 pairs. 4 branches of 6 tokens, the last
  # not run: 20 tokens; pairs 4 * 15 among themselves, 2 * 5 * (3 + 8) with the
  # trunk. 32 per pair. 16 tokens are drawn from 40 x 16.
  work = dataclasses.replace(WORK, trajectories=1)
  found = floor.operations(MODEL, work)
  assert found.prefill == 2 * (8 * 1536 + 36 * 32)
  assert found.decode == 2 * (20 * 1536 + (60 + 110) * 32 + 16 * 640)
  assert found.update == 3 * (found.prefill + found.decode)


@pytest.mark.slow
def test_completions_of_real_lengths_end_where_the_workload_says():
  changes = {"steps": 4, "new_tokens": 12, "samples": 8}
  work = dataclasses.replace(WORK, fill=0.5, kept=0.5, **changes)
  assert work.lengths.shape == (2, 4, 8) and work.is_kept.sum() == 4
  assert 0.4 < work.lengths.mean() / 12 < 0.6
  assert 1 <= work.lengths.min() < work.lengths.max() <= 12
  found = ours.Ours(MODEL, work, ours.Settings()).step()
  assert found["sampled"] == work.lengths.sum() < work.branches * 12
  assert found["trained"] == work.lengths[work.is_kept].sum()
  counted = floor.operations(MODEL, work)
  full = floor.operations(MODEL, dataclasses.replace(work, fill=1, kept=1))
  assert counted.prefill == full.prefill and counted.decode < full.decode
  assert counted.update < 3 * (counted.prefill + counted.decode)


def test_what_systems_without_sharing_need_is_computed_by_hand():
  # With stems the prompts have 5 and 10 tokens, each of them 4 times.
  needs = floor.needs_without_sharing(MODEL, WORK)
  assert needs.copies == 8
  assert needs.tokens == 4 * (5 + 10) + 8 * 4
  assert needs.padded_tokens == 8 * (10 + 4)
  # Keys and values of 8 numbers, 4 bytes each.
  assert needs.kv_bytes == 112 * 2 * 8 * 4


def test_the_workloads_are_those_of_the_comparison():
  w1, w2, w3 = (engine.WORKS[name] for name in ("w1", "w2", "w3"))
  prompts = w2.prompt_tokens + w2.stem_tokens
  assert prompts.tolist() == [64, 112, 160, 208, 256, 304]
  needs = floor.needs_without_sharing(MODELS["tiny"], w2)
  assert (needs.padded_tokens, needs.tokens) == (135_168, 89_088)
  # Trunks of 303 tokens; the last token of a branch is not run, the stem is.
  assert w2.predicted() == (8 * 303, 384 * 48)
  assert w1.prompt_tokens[0] + w1.stem_tokens == 64
  assert w1.sampled_tokens == engine.WORKS["sampling"].sampled_tokens == 8192
  assert w3.prompt_tokens[-1] + w3.stem_tokens == 12_000
  assert w3.branches == 192


def test_words_differ_and_are_equally_long():
  found = workload.words(700)
  assert len(set(found)) == 700
  assert {len(word) for word in found} == {3}
  assert ours.Words(700).decode([2, 699]) == f"{found[2]} {found[699]} "


def test_prompts_are_nested_and_end_with_their_stems():
  made = workload.given(WORK, 40)
  short, long = made.prompt(WORK, 1, 0), made.prompt(WORK, 1, 1)
  assert (len(short), len(long)) == (5, 10)
  np.testing.assert_array_equal(short[:3], long[:3])
  np.testing.assert_array_equal(short[3:], made.stem_KC[0])
  assert min(made.tokens_NS.min(), made.stem_KC.min()) >= workload.FIRST_WORD


@pytest.mark.parametrize("layout", ours.LAYOUTS)
def test_every_branch_of_every_layout_has_its_own_prompt(layout):
  made = workload.given(WORK, 40)
  seen = []
  for batch in ours.trunk_batches(WORK, 40, layout):
    trunks = batch.trunks
    for n, trunk in enumerate(batch.sources):
      for k, point in enumerate(trunk.points):
        at = trunks.branch_at_NK[n, k]
        prompt = np.concatenate(
          [trunks.tokens_NS[n, :at], trunks.stem_NKC[n, k]]
        )
        at_n = int(trunk.trajectory.id)
        np.testing.assert_array_equal(
          prompt, made.prompt(WORK, at_n, point.step)
        )
        seen.append((at_n, point.step))
        if layout == "flat":
          assert at == trunks.tokens_NS.shape[1], "padding"
  repeats = 1 if layout == "shared" else WORK.samples
  assert sorted(seen) == sorted(repeats * [(0, 0), (0, 1), (1, 0), (1, 1)])


@pytest.fixture(scope="module", params=ours.LAYOUTS)
def contender(request):
  return ours.Ours(MODEL, WORK, ours.Settings(layout=request.param))


def made_up_rounds(contender):
  """Samples whose tokens name their branch, and a reward for each."""
  reward_NKG = np.random.default_rng(0).random((2, 2, 2)).astype(np.float32)
  rounds, width = [], WORK.stem_tokens + WORK.new_tokens
  taken = dict.fromkeys(np.ndindex(2, 2), 0)
  for batch in contender.batches:
    samples = contender.sampling.samples
    n, k = batch.trunks.is_real_NK.shape
    tokens_NRC = np.zeros((n, k * samples, width), np.int32)
    found_NKG = np.zeros((n, k, samples), np.float32)
    for row, trunk in enumerate(batch.sources):
      for column, point in enumerate(trunk.points):
        for sample in range(samples):
          place = (int(trunk.trajectory.id), point.step)
          branch = (*place, taken[place])
          taken[place] += 1
          tokens_NRC[row, column * samples + sample] = np.ravel_multi_index(
            branch, (2, 2, 2)
          )
          found_NKG[row, column, sample] = reward_NKG[branch]
    branches = Branches(
      tokens_NRC=tokens_NRC,
      length_NR=np.full((n, k * samples), width, np.int32),
      is_completion_NRC=np.broadcast_to(
        np.arange(width) >= WORK.stem_tokens, tokens_NRC.shape
      ),
      sampler_logp_NRC=np.zeros(tokens_NRC.shape, np.float32),
      stopped_NR=np.zeros((n, k * samples), bool),
    )
    scores = Scores(found_NKG, *(None,) * 4)
    slot_use = SlotUse(np.zeros(n), np.ones(n))
    rounds.append(Round(branches, scores, slot_use, 0.0, 0.0))
  return rounds, reward_NKG


def test_rewards_stay_with_their_branches(contender):
  rounds, reward_NKG = made_up_rounds(contender)
  expected_NKG = np.asarray(
    advantages.group_advantages(reward_NKG.reshape(4, 2))
  ).reshape(2, 2, 2)
  seen = []
  for batch in contender.micro_batches(rounds):
    # Branches of full length have a lane each.
    is_used_NB = batch.position_NBW[..., 0] >= 0
    name_X = np.asarray(batch.tokens_NBW)[is_used_NB][:, -1]
    branches = np.unravel_index(name_X, (2, 2, 2))
    np.testing.assert_allclose(
      batch.advantage_NBW[is_used_NB][:, -1], expected_NKG[branches], rtol=1e-5
    )
    np.testing.assert_array_equal(
      batch.position_NBW[is_used_NB][:, 0], WORK.prompt_tokens[branches[1]]
    )
    assert (batch.completion_tokens_NBW > 0).sum() == 4 * len(name_X)
    seen += name_X.tolist()
  assert sorted(seen) == list(range(8))


@pytest.mark.slow
def test_a_step_samples_and_trains_the_predicted_tokens(contender):
  found = contender.step()
  assert found["sampled"] == found["trained"] == WORK.sampled_tokens == 32
  assert found["update_cpu_s"] > 0
  # Rewards were computed, or nothing would be learnt from.
  params = jax.device_get(contender.state.params)
  contender.step()
  largest = lambda a, b: np.abs(a - b).max()  # noqa: E731
  moved = jax.tree.map(largest, contender.state.params, params)
  assert max(jax.tree.leaves(moved)) > 0


@pytest.mark.slow
def test_sampling_alone_neither_scores_nor_trains():
  contender = ours.Ours(MODEL, WORK, ours.Settings(trains=False))
  found = contender.step()
  assert found.keys() == {"rollout_s", "rollout_cpu_s", "sampled"}
  assert found["sampled"] == WORK.sampled_tokens


def test_random_completions_are_compared_with_the_expert():
  words = ours.Words(40)
  text = words.decode([5, 6, 7])
  completion = ours.Completion(text, stopped=False)
  [same, other] = ours.ActionScorer(ours.RewardConfig()).score(
    [completion] * 2, [text.strip(), "zz"]
  )
  assert (same.reward, other.reward) == (1.0, 0.0)
  assert not same.failure


def test_a_contender_that_counts_other_tokens_is_refused():
  spec = {"work": dataclasses.asdict(WORK), "settings": {"trains": True}}
  engine.check_tokens("x", {"sampled": 32, "trained": 32}, spec)
  with pytest.raises(AssertionError, match="x trained 31 tokens a step"):
    engine.check_tokens("x", {"sampled": 32, "trained": 31}, spec)


def test_shares_of_the_floor_are_of_the_time_taken():
  operations = floor.Operations(prefill=10, decode=90, update=300)
  found = {"cpu_s": 8.0, "rollout_cpu_s": 4.0, "update_cpu_s": 3.0}
  found |= {"sampled": 16, "trained": 16, "prefill_cpu_s": 1.0}
  rows = engine.quantities(found, operations, rate=100.0)
  assert rows["floor, CPU s"] == 4
  assert rows["share of floor, %"] == 50
  assert rows["  rollout, %"] == 25
  assert rows["  update, %"] == 100
  assert rows["  decode, CPU s"] == 3
  assert rows["tokens per CPU s"] == 2
  # Sampling alone has no update to take into account.
  rows = engine.quantities(found | {"trained": 0}, operations, rate=100.0)
  assert rows["floor, CPU s"] == 1


def test_a_worker_steps_when_told_and_ends_when_told():
  answers = io.StringIO()
  commands = io.StringIO("step\nreset\nstep\nstop\nstep\n")
  turns = worker.Turns(commands, answers)
  while turns.begin():
    turns.end(sampled=7)
  found = [json.loads(line) for line in answers.getvalue().splitlines()]
  assert [x["sampled"] for x in found] == [7, 7]
  assert all(x["wall_s"] >= 0 and x["cpu_s"] >= 0 for x in found)


def test_peers_that_are_missing_are_left_out(monkeypatch, capsys):
  find = lambda name: None if name == "trl" else object()  # noqa: E731
  monkeypatch.setattr(engine.importlib.util, "find_spec", find)
  assert engine.missing(["trl", "hf"]) == ["trl"]
  seen = {}

  def measure(specs, repeats):
    seen.update(specs)
    of_one = {"cpu_s": 1.0, "sampled": 8192, "trained": 8192}
    return {"ours, shared": of_one}, 1e9, []

  monkeypatch.setattr(engine, "measure", measure)
  engine.main(["--work=w1", "--peers", "trl"])
  assert "pip install" in capsys.readouterr().out
  assert set(seen) == {"ours, shared", "rate"}


def arguments(*more):
  return engine.make_parser().parse_args([*SMALLER_WORK, *more])


@pytest.fixture
def small_models(monkeypatch):
  monkeypatch.setitem(engine.MODELS, "tiny", MODEL)


@pytest.mark.slow
def test_contenders_take_turns_in_processes_of_their_own(small_models):
  specs = engine.contenders(
    arguments("--cores=1", "--layouts", "shared", "flat")
  )
  medians, rate, _ = engine.measure(specs, repeats=1)
  assert list(medians) == ["ours, shared", "ours, flat"]
  assert rate > 1e8
  for found in medians.values():
    assert found["trained"] == WORK.sampled_tokens
    assert 0 < found["update_cpu_s"] < found["cpu_s"]
    # The flat one is not compiled to be faster; it has a peak of its own.
    assert found["peak_bytes"] <= found["first_peak_bytes"]


@pytest.mark.parity
@pytest.mark.parametrize(("work", "peer"), [("w1", "trl"), ("sampling", "hf")])
def test_peers_do_the_same_work(small_models, work, peer):
  pytest.importorskip("trl")
  specs = engine.contenders(arguments(f"--work={work}", "--peers", peer))
  specs = {k: v for k, v in specs.items() if k in (peer.upper(), "rate")}
  medians, _, [notes] = engine.measure(specs, repeats=1)
  assert "torch" in notes
  assert medians[peer.upper()]["sampled"] == WORK.sampled_tokens


@pytest.mark.parity
def test_the_model_of_the_peers_has_our_shape():
  from benchmarks import peers

  model = MODELS["tiny"]
  theirs = peers.make_model(dataclasses.asdict(model), positions=64)
  params = jax.eval_shape(ours.LanguageModel(model).init, jax.random.key(0))
  count = sum(x.size for x in jax.tree.leaves(params))
  assert sum(x.numel() for x in theirs.parameters()) == count
  tokenizer = peers.make_tokenizer(512)
  ids = [5, 400, 77]
  text = " ".join(workload.words(512)[i] for i in ids)
  assert tokenizer(text)["input_ids"] == ids
  assert tokenizer.decode(ids) == text


HLO = """
%fused (p: f32[4]) -> f32[4] {
}
ENTRY %main {
  %dot.1 = f32[64,512]{1,0} dot(%a, %b), metadata={op_name="jit(f)/mlp/dot_general"}
  ROOT %copy_bitcast_fusion.2 = f32[8,4]{1,0} fusion(%a), kind=kLoop
  fusion.3 = f32[8]{0} fusion(a), metadata={op_name="jit(f)/transpose(jvp(x))/checkpoint/rematted_computation/attention/exp"}
}
"""  # noqa: E501


def test_operations_are_classed_by_part_pass_and_kind():
  program = profile.parse_program(HLO)
  assert program["dot.1"].shape == "f32[64,512]"
  classes = {op: profile.classify(op, program[op]) for op in program}
  assert classes == {
    "dot.1": "mlp, matrix products",
    "copy_bitcast_fusion.2": "copies f32[8,4]",
    "fusion.3": "attention, recomputed, other operations",
  }
  assert profile.classify("reduce-window.7", None) == "reduce-window"


def test_a_loop_takes_only_what_its_body_does_not():
  event = lambda start, end, op: profile.Event(start, end, "f", op)  # noqa: E731
  events = [
    event(0, 10e9, "while"),
    event(1e9, 4e9, "dot"),
    event(4e9, 9e9, "dot"),
    event(5e9, 6e9, "inner"),
    event(11e9, 12e9, "dot"),
  ]
  found = profile.own_times(events)
  assert found["f", "while"] == [2]
  assert found["f", "dot"] == [3, 4, 1]
  assert found["f", "inner"] == [1]
  # One run of four took long: someone else's work.
  assert profile.undisturbed([2, 2, 2, 50]) == 8


def test_the_largest_costs_come_first_with_their_shares():
  programs = {"f": profile.parse_program(HLO)}
  times = profile.by_class(
    {("f", "copy_bitcast_fusion.2"): 1.0, ("f", "dot.1"): 3.0}, programs
  )
  assert list(times["f"].values()) == [3.0, 1.0]
  lines = profile.report(times, count=1).splitlines()
  assert lines[0] == ("f: 4 s (matrix products 75%, copies 25%)")
  assert "75.0%" in lines[1] and "mlp, matrix products" in lines[1]
  assert len(lines) == 2


@pytest.mark.slow
def test_the_profile_of_a_step_names_matrix_products():
  # In a process of its own: XLA writes its programs down from the start only.
  done = subprocess.run(
    [sys.executable, "-m", "benchmarks.profile", "--traced=1", *SMALLER_WORK],
    capture_output=True,
    text=True,
    check=True,
  )
  for program in ("jit_decode", "jit_accumulate"):
    [line] = [x for x in done.stdout.splitlines() if x.startswith(program)]
    shares = [int(x) for x in re.findall(r"(\d+)%", line)]
    # Each rounded.
    assert abs(sum(shares) - 100) <= 2
    assert shares[0] > 0, line  # 3% was seen on a busy machine.
