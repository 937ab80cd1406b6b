# SPDX-License-Identifier: Apache-2.0
"""The command that prepares a dataset, run as a user runs it."""

import dataclasses
import json
import re

import pytest

from srl_jax.data import prepare, readers
from srl_jax.data.readers import DataConfig
from srl_jax.data.schema import to_json
from srl_jax.data.templates import PlainTemplate, make_template
from srl_jax.data.trunks import TrunkConfig, build_trunks
from srl_jax.storage import hub
from srl_jax.tokenizers import ByteTokenizer
from tests.support import agents
from tests.support.trajectories import sums

DATA = [sums(1 + i % 4, f"s{i}") for i in range(12)]


@pytest.fixture
def path(tmp_path):
  path = tmp_path / "data.jsonl"
  lines = [json.dumps(to_json(t)) for t in DATA]
  path.write_text("\n".join([*lines, '{"id": "bad"}', "not json"]), "utf-8")
  return path


def run(path, *args):
  prepare.main(["--data.format=jsonl", f"--data.path={path}", *args])


@pytest.mark.parametrize("form", ["tfds", "jsonl"])
def test_what_is_prepared_loads_with_the_same_splits(
  tmp_path, capsys, path, form
):
  out = tmp_path / "out"
  sizes = {"valid_size": 2, "test_size": 3}
  flags = [f"--data.{k}={v}" for k, v in sizes.items()]
  run(path, *flags, f"--out={out}", f"--as={form}")
  printed = capsys.readouterr().out
  assert f"use it: data.format={form} data.path={out}" in printed
  direct = readers.load_trajectories(DataConfig("jsonl", str(path), **sizes))
  again = readers.load_trajectories(DataConfig(form, str(out)))
  assert again.splits == direct.splits
  lines = (out / "rejects.jsonl").read_text("utf-8").splitlines()
  assert [json.loads(line)["line"] for line in lines] == [13, 14]
  with pytest.raises(SystemExit, match="exists already"):
    run(path, *flags, f"--out={out}", f"--as={form}")


def test_summary_table_holds_the_numbers_of_the_report(capsys, path):
  limits = {"max_trunk_tokens": 30, "points_per_trunk": 2}
  flags = [f"--trunks.{k}={v}" for k, v in limits.items()]
  run(path, "--template=plain", "--group_size=3", *flags)
  table = {
    line[:50].strip(): line[50:].strip()
    for line in capsys.readouterr().out.replace("  ", " " * 50).splitlines()
  }
  _, report = build_trunks(
    DATA, PlainTemplate(), ByteTokenizer(), TrunkConfig(**limits)
  )
  flat, shared = report.prompt_tokens(3)
  stats = dataclasses.astuple(report.lengths["trunk"])
  dropped = len(report.drops["context over max_trunk_tokens=30"])
  assert dropped > 0
  assert table["trajectories"] == "12"
  assert table["branch points"] == str(report.points)
  shown = table["trunk tokens, min / median / p95 / max"]
  assert shown == " / ".join(map(str, stats))
  assert table["prompt tokens, 3 samples, flat"] == f"{flat:,}"
  assert table["prompt tokens, 3 samples, shared"] == f"{shared:,}"
  assert table["dropped: context over max_trunk_tokens=30"] == str(dropped)


def test_prompts_that_differ_from_their_text_in_one_piece_are_reported(
  capsys, path, families
):
  args = ("--template=chat", "--tokenizer.kind=huggingface")
  args += (f"--tokenizer.path={families('qwen3')}", "--data.valid_size=4")
  run(path, *args)
  printed = capsys.readouterr().out
  row = "prompts with the ids of their whole text"
  [counts] = re.findall(rf"^{row} +(\d+) +(\d+)$", printed, re.MULTILINE)
  # The 12 trajectories hold 30 steps, and all prompts were compared.
  assert sum(map(int, counts)) == 30
  assert "have other ids" not in printed
  bad = dataclasses.replace(DATA[0], id="bad", problem="What is <|im_end|>?")
  with open(path, "a", encoding="utf-8") as file:
    file.write("\n" + json.dumps(to_json(bad)))
  run(path, *args)
  printed = capsys.readouterr().out
  [counts] = re.findall(rf"^{row} +(\d+) +(\d+)$", printed, re.MULTILINE)
  assert sum(map(int, counts)) == 30
  assert re.search(
    r"^warning: \w+ split: 1 of \d+ prompts have other ids .* because of a "
    r"control token's name in the text: bad/0 has ",
    printed,
    re.MULTILINE,
  )


def test_a_tokenizer_is_fetched_from_the_hub(
  capsys, path, families, monkeypatch
):
  fetched = []

  def download(name, *, allow_patterns, **_):
    fetched.append((name, "*.safetensors" in allow_patterns))
    return str(families("qwen2_5"))

  monkeypatch.setattr(hub.huggingface_hub, "snapshot_download", download)
  flags = ("--template=chat", "--tokenizer.kind=huggingface")
  tables = []
  for source in ("Qwen/tiny", families("qwen2_5")):
    run(path, *flags, f"--tokenizer.path={source}")
    tables.append(capsys.readouterr().out)
  assert fetched == [("Qwen/tiny", False)]
  assert tables[0] == tables[1]


def test_rejects_are_counted_by_field_with_a_case(capsys, path):
  run(path)
  printed = capsys.readouterr().out
  assert "1 records refused for 'steps', the first: " in printed
  assert f"{path}:14: field '(line)': is not JSON" in printed


def test_last_steps_without_the_answer_are_reported(capsys, path):
  run(path)
  # The answers are the numbers of steps; the last texts end in " +1".
  said = (
    "warning: 12 of 12 trajectories have a last step in which the reference"
  )
  assert said in capsys.readouterr().out
  prepare.main(["--data.format=registers", "--data.train_size=2"])
  assert "warning" not in capsys.readouterr().out


def test_domains_are_checked_and_named_again_in_what_to_type(
  tmp_path, capsys, path
):
  with path.open("a") as file:
    file.write('\n{"problem": "p", "steps": ["x"], "domain": "maths"}')
  run(path)
  said = "warning: 1 records name domains that do not exist, which are taken"
  assert said in capsys.readouterr().out
  out = tmp_path / "out"
  run(path, "--data.domain=software", f"--out={out}", "--as=jsonl")
  printed = capsys.readouterr().out
  assert f"data.path={out} data.domain=software\n" in printed
  assert said not in printed


@pytest.mark.parametrize("which", ["1", "s1/0"])
def test_show_prints_the_tokens_of_the_instance(capsys, path, which):
  run(path, "--template=plain", "--trunks.include_thoughts", "--show", which)
  printed = capsys.readouterr().out
  # s0 has one step, so branch point 1 is the first step of s1.
  assert "branch point 1 of 30: s1/0\n" in printed
  assert "12 tokens ----\nWhat is s1?\n\n---- ids ----\n87 104 97" in printed
  assert "<step>\n---- ids ----\n259\n" in printed
  assert "<think>thought 0</think>step 0</s>\n" in printed
  assert "what rewards compare with ----\nstep 0\n" in printed


@pytest.mark.parametrize(
  ("args", "words"),
  [
    (["--show=30"], "--show=30 is no branch point; give 0 to 29 or .* s0/0"),
    (["--show=s1/7"], "is no branch point"),
    (["--show=0", "--split=test"], "--split=test is empty; choose from train"),
    (
      ["--show=0", "--trunks.max_target_tokens=1"],
      "--show=0: every branch point is dropped; leave --show out",
    ),
    (["--data.strict"], "2 of 14 records"),
    (["--data.valid_size=99"], "too few"),
    (["--group_size=0"], "--group_size=0 is too low; give 1 or more"),
    (["--observation_tokens=-4"], "tokens=-4 is too low; give 0 or more"),
    (["--trunks.context_turns=-1"], "context_turns=-1; set it to 0"),
    (["--tokenizer.kind=huggingface"], "set tokenizer.path to a"),
    (["--template=chat"], "set c.tokenizer.kind='huggingface' and"),
  ],
)
def test_what_cannot_be_done_ends_in_one_message(path, args, words):
  with pytest.raises(SystemExit, match=words):
    run(path, *args)


def test_help_explains_every_option(capsys):
  with pytest.raises(SystemExit):
    prepare.main(["--help"])
  text = " ".join(capsys.readouterr().out.split())
  for prefix, cls in prepare._CONFIGS.items():
    for field in dataclasses.fields(cls):
      after = text.split(f"[--{prefix}.{field.name}")[-1]
      after = after.split(f"--{prefix}.{field.name} ", 1)[-1]
      explained, default, _ = after.partition(f"(default: {field.default!r})")
      assert default and len(explained.split()) > 3, field.name


def test_agents_are_counted_by_tokens_and_by_their_tools(tmp_path, capsys):
  runs = tmp_path / "runs.jsonl"
  records = [
    agents.smith_xml(),
    agents.openhands() | {"resolved": 0},
    agents.mini_swe_agent() | {"resolved": True},
    {"messages": []},
  ]
  runs.write_text("\n".join(map(json.dumps, records)), "utf-8")
  prepare.main(
    [
      "--data.format=agents",
      f"--data.path={runs}",
      "--data.resolved_only",
      "--data.target_tools=bash,submit",
      "--template=plain",
      "--observation_tokens=10",
      "--group_size=3",
      f"--out={tmp_path / 'out'}",
      "--as=jsonl",
    ]
  )
  printed = capsys.readouterr().out
  config = DataConfig(
    "agents", str(runs), resolved_only=True, target_tools="bash,submit"
  )
  direct = readers.load_trajectories(config)
  tokenizer = ByteTokenizer()
  _, report = build_trunks(
    direct.trajectories,
    make_template("plain", tokenizer, observation_tokens=10),
    tokenizer,
    TrunkConfig(),
  )
  flat, shared = report.prompt_tokens(3)
  for name, tokens in (("flat", flat), ("shared", shared)):
    row = rf"^prompt tokens, 3 samples, {name} +{tokens:,}$"
    assert re.search(row, printed, re.M)
  assert "actions to learn: bash 3, submit 3\n" in printed
  assert re.search(
    r"^1 trajectories left out, the first 'owner\S+': not resolved$",
    printed,
    re.M,
  )
  assert "1 records refused for 'messages', the first:" in printed
  assert re.search(r"^dropped: steps for the context only +2$", printed, re.M)
  out = f"data.format=jsonl data.path={tmp_path / 'out'}"
  assert f"use it: {out}" in printed
  again = readers.load_trajectories(DataConfig("jsonl", str(tmp_path / "out")))
  assert again.splits == direct.splits


def test_prompts_are_compared_up_to_a_limit(capsys, path, monkeypatch):
  monkeypatch.setattr(prepare, "_COMPARED", 10)
  run(path)
  assert re.search(r"^prompts compared +10$", capsys.readouterr().out, re.M)


def test_a_split_within_the_limit_stands_beside_one_above_it(
  capsys, path, monkeypatch
):
  monkeypatch.setattr(prepare, "_COMPARED", 5)
  run(path, "--data.valid_size=1")
  printed = capsys.readouterr().out
  # Each split has a number, whether all its prompts were compared or not.
  assert re.search(r"^prompts compared +\d+ +\d+$", printed, re.M)
