# SPDX-License-Identifier: Apache-2.0
"""Answers in one go and step by step, and what is printed of them."""

import io
import json
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from srl_jax import inference
from srl_jax.chat import __main__ as chat
from srl_jax.chat.answers import ChatAnswer, Drawing, drive
from srl_jax.chat.prompts import read_prompts
from srl_jax.data.messages import encode_messages
from srl_jax.domains import registers
from srl_jax.rollout.completions import complete
from srl_jax.rollout.requests import Piece, Request
from tests.support import small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return small_model.write(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def tiny(folder):
  return inference.load(inference.config_of(str(folder)), "tiny")


@pytest.fixture(scope="module")
def stream(tiny):
  return tiny.stream(
    rows=1, slots=2, key=jax.random.key(0), segment_iterations=8
  )


@pytest.fixture(scope="module")
def student():
  return inference.load(inference.config_of("registers_student"))


def piece_of(model, text, ending="stop"):
  tokens = [*model.run.tokenizer.encode(text), model.stop_ids[0]]
  nothing = np.zeros((len(tokens), 0))
  return Piece(1, 0, tokens, [-0.5] * len(tokens), [], nothing, nothing, ending)


def test_the_next_step_sees_the_actions_and_not_the_thoughts(student):
  drawing = Drawing("turns", domain="registers", max_turns=3)
  answer = ChatAnswer(student, drawing, "^Dz+x;?8652", 0, 0)
  decode = student.run.tokenizer.decode
  first = decode(answer.request().tokens)
  assert first == "^Dz+x;?8652\n<step>"
  answer.take(piece_of(student, "<think>Dz+x</think>D8658"))
  second = decode(answer.request().tokens)
  assert second == "^Dz+x;?8652\nD8658\n<step>"
  assert not answer.ending
  answer.take(piece_of(student, "<think>y</think>#### 7"))
  assert answer.ending == "answered"
  assert answer.parts() == [("Dz+x", "D8658"), ("y", "#### 7")]
  assert answer.tokens > 10 and answer.logp == -0.5 * answer.tokens


def test_the_next_step_sees_as_many_steps_as_in_training(student):
  drawing = Drawing("turns", context_turns=1)
  answer = ChatAnswer(student, drawing, "^Dz+x;?8652", 0, 0)
  for action in ("A1", "B2"):
    answer.request()
    answer.take(piece_of(student, f"<think>t</think>{action}"))
  decode = student.run.tokenizer.decode
  assert decode(answer.request().tokens) == "^Dz+x;?8652\nB2\n<step>"


@pytest.mark.parametrize(
  ("text", "ending"),
  [("<think>x</think>", "no action"), ("<think>x</think>A1", "turn limit")],
)
def test_steps_end_for_a_reason(student, text, ending):
  answer = ChatAnswer(
    student, Drawing("turns", max_turns=1), "^Dz+x;?8652", 0, 0
  )
  answer.request()
  answer.take(piece_of(student, text))
  assert answer.ending == ending


def test_the_student_solves_an_easy_problem_step_by_step(student):
  [problem] = registers.generate("test", 1, blocks=2, lines=1)
  drawing = Drawing("turns", domain="registers", max_turns=2, temperature=0.0)
  stream = student.stream(rows=1, slots=1, key=jax.random.key(0))
  answer = ChatAnswer(student, drawing, problem.problem, 0, 0)
  told = "".join(new for _, new in drive(stream, [answer]))
  assert [action for _, action in answer.parts()] == [
    step.text for step in problem.steps
  ]
  assert told == "\n\n".join(answer.texts)
  assert answer.ending == "turn limit"


def test_an_answer_is_what_the_sampler_draws(tiny, stream):
  drawing = Drawing("chat", max_new_tokens=20, seed=4)
  answers = [
    ChatAnswer(tiny, drawing, "What is 2+3*4?", 0, g) for g in range(2)
  ]
  tokens = encode_messages(
    tiny.chat,
    tiny.run.tokenizer,
    [{"role": "user", "content": "What is 2+3*4?"}],
  )
  requests = [answer.request() for answer in answers]
  assert list(requests[0].tokens) == tokens
  want = {
    done.sample: tiny.run.tokenizer.decode(
      done.tokens[:-1] if done.is_stopped else done.tokens
    )
    for done in complete(stream, requests)
  }
  for answer in answers:
    answer.texts.clear()
  for _ in drive(stream, answers):
    pass
  assert [answer.texts for answer in answers] == [[want[0]], [want[1]]]
  assert want[0] != want[1]


def test_an_interrupted_answer_leaves_the_sampler_as_it_was(tiny, stream):
  drawing = Drawing("chat", max_new_tokens=400, seed=0)
  answers = [ChatAnswer(tiny, drawing, "Hi", 0, g) for g in range(5)]
  ended = list(drive(stream, answers, lambda: True))
  assert all(a.ending for a, _ in ended[-2:])
  assert "interrupted" in {answer.ending for answer in answers}
  assert stream.is_idle
  [done] = complete(stream, [Request([5, 6], max_new_tokens=4)])
  assert len(done.tokens) <= 4


def run_chat(monkeypatch, capsys, folder, *arguments, lines=()):
  """Runs the command; returns what it printed."""
  lines = iter(lines)

  def read(_):
    line = next(lines, EOFError)
    if not isinstance(line, str):
      raise line
    return line

  monkeypatch.setattr("builtins.input", read)
  at_terminal = types.SimpleNamespace(isatty=lambda: True)
  monkeypatch.setattr("sys.stdin", at_terminal)
  chat.main([f"--weights={folder}", "--max_new_tokens=6", *arguments])
  return capsys.readouterr()


def test_a_file_of_prompts_gives_an_object_per_answer(
  monkeypatch, capsys, folder, tmp_path
):
  path = tmp_path / "prompts.jsonl"
  messages = [{"role": "user", "content": "Hello"}]
  records = [{"problem": "2+3"}, {"messages": messages}, {"prompt": "a"}]
  path.write_text("\n".join(map(json.dumps, records)))
  asked = [f"--prompts={path}", "--n=2", "--seed=3", "--json"]
  out = run_chat(monkeypatch, capsys, folder, *asked).out
  rows = list(map(json.loads, out.splitlines()))
  assert [(x["number"], x["sample"]) for x in rows] == [
    (i, g) for i in range(3) for g in range(2)
  ]
  assert rows[2]["prompt"] == messages
  assert rows[0]["prompt"] == [{"role": "user", "content": "2+3"}]
  for row in rows:
    assert row["seed"] == 3 and row["mode"] == "chat"
    assert row["ending"] in ("stop", "length")
    assert row["tokens"] <= 6 and row["logp"] < 0


def test_the_system_message_comes_before_messages_without_one(
  monkeypatch, capsys, folder, tmp_path
):
  path = tmp_path / "prompts.jsonl"
  user, own = ({"role": x, "content": x} for x in ("user", "system"))
  talks = [[user], [own, user]]
  path.write_text("\n".join(json.dumps({"messages": x}) for x in talks))
  asked = [f"--prompts={path}", "--json", "--system=Be brief."]
  out = run_chat(monkeypatch, capsys, folder, *asked).out
  prompts = [json.loads(line)["prompt"] for line in out.splitlines()]
  system = {"role": "system", "content": "Be brief."}
  assert prompts == [[system, user], [own, user]]


def test_a_conversation_goes_on_until_the_input_ends(
  monkeypatch, capsys, folder
):
  seen = []
  encode = encode_messages

  def spy(chat_format, tokenizer, messages):
    seen.append([(m["role"], m["content"]) for m in messages])
    return encode(chat_format, tokenizer, messages)

  monkeypatch.setattr("srl_jax.chat.answers.encode_messages", spy)
  # As workers of pytest have it; pytest itself has the handler of Python.
  handler = signal.SIG_IGN
  before = signal.signal(signal.SIGINT, handler)
  lines = ["Hi", KeyboardInterrupt, "", "More", "/new", "Again", "x" * 9000]
  asked = ["--system=Be brief.", "--seed=1"]
  said = run_chat(monkeypatch, capsys, folder, *asked, lines=lines)
  first, second, third, _ = seen
  assert first == [("system", "Be brief."), ("user", "Hi")]
  assert second[:2] == first and second[2][0] == "assistant"
  assert second[2][1] in said.out
  assert second[3] == ("user", "More") and len(second) == 4
  assert third == [("system", "Be brief."), ("user", "Again")]
  assert "context length is 4096" in said.err
  assert signal.signal(signal.SIGINT, before) is handler


@pytest.mark.slow
@pytest.mark.parametrize(
  ("number", "status", "errors"),
  [
    (signal.SIGINT, 130, ""),
    (signal.SIGTERM, 143, "asked to stop: ended at once\n"),
  ],
)
def test_a_signal_between_two_lines_of_a_pipe_ends_the_program(
  folder, number, status, errors
):
  with subprocess.Popen(
    [
      *(sys.executable, "-m", "srl_jax.chat"),
      *(f"--weights={folder}", "--max_new_tokens=1"),
    ],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      process.stdin.write("Hi\n")
      process.stdin.flush()
      assert process.stdout.readline()
      # The next line is waited for at once.
      time.sleep(1)
      process.send_signal(number)
      found = process.communicate(timeout=60)
    finally:
      process.kill()
  assert process.returncode == status
  assert found == ("", errors)


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (["--mode=solve", "--system=x", "a"], "--system is for --mode=chat"),
    (
      ["--mode=solve", "--domain=maths", "a"],
      "no domain 'maths'.*'math'",
    ),
    (["--mode=chat", "--domain=math", "a"], "--domain=math says how prompts"),
    (
      ["--mode=solve", "--temperature=0", "--top_p=0.9", "a"],
      "--top_p=0.9 is for samples",
    ),
    (["--prompts=nowhere", "a"], "not both"),
    (["--prompts=nowhere"], "nowhere cannot be read"),
    (["--n=0", "a"], "--n=0 is too low; give 1 or more"),
    (["--max_new_tokens=0", "a"], "--max_new_tokens=0 is too low"),
    (["--max_new_tokens=4096", "a"], "of 4096 tokens, .* give 4095 or less"),
    (["--mode=turns", "--max_turns=0", "a"], "--max_turns=0 is too low"),
    (["--mode=solve", "--max_turns=3", "a"], "--max_turns is for --mode=turns"),
    ([" "], "the prompt is empty"),
    (["a\udcffb"], r"the prompt holds '\\udcff', which is no character"),
  ],
)
def test_what_cannot_be_asked_is_told(
  monkeypatch, capsys, folder, arguments, words
):
  with pytest.raises(SystemExit, match=words):
    run_chat(monkeypatch, capsys, folder, *arguments)


def test_a_bad_line_of_a_file_is_named(tmp_path):
  path = tmp_path / "prompts.jsonl"
  for line, words in (
    ("{", "line 2"),
    ('{"text": "x"}', "it has text"),
    ('{"messages": [{"role": 3}]}', "texts role, content"),
  ):
    path.write_text('{"problem": "a"}\n' + line)
    with pytest.raises(ValueError, match=words):
      read_prompts(path)
  path.write_text("\n")
  with pytest.raises(ValueError, match="holds no prompt"):
    read_prompts(path)
  text = tmp_path / "prompts.txt"
  text.write_text("one\n\n{two}\n")
  assert read_prompts(text) == {0: "one", 2: "{two}"}


def test_prompts_are_the_lines_of_their_file(tmp_path):
  inside = "one\x85 two\u2028three"
  text = tmp_path / "prompts.txt"
  text.write_text(f"{inside}\x0b!\r\nfour\n", "utf-8-sig")
  assert read_prompts(text) == {0: f"{inside}\x0b!", 1: "four"}
  path = tmp_path / "prompts.jsonl"
  record = json.dumps({"problem": inside}, ensure_ascii=False)
  path.write_text(record, "utf-8-sig")
  assert read_prompts(path) == {0: inside}
  path.write_text(record, "utf-16")
  with pytest.raises(ValueError, match="type: iconv -f UTF-16 -t UTF-8"):
    read_prompts(path)


@pytest.mark.parametrize(
  ("mode", "line", "words"),
  [
    ("chat", {"prompt": "x" * 9000}, "the prompt has 9.*shorten it"),
    (
      "solve",
      {"messages": [{"role": "user", "content": "a"}]},
      "messages are for --mode=chat, not --mode=solve",
    ),
  ],
)
def test_a_line_that_cannot_be_asked_is_named(
  monkeypatch, capsys, folder, tmp_path, mode, line, words
):
  path = tmp_path / "prompts.jsonl"
  path.write_text("\n".join(map(json.dumps, [{"prompt": "a"}, line])))
  with pytest.raises(SystemExit, match=rf"prompts\.jsonl, line 2: {words}"):
    run_chat(monkeypatch, capsys, folder, f"--prompts={path}", f"--mode={mode}")


def test_numbers_of_a_pipe_are_those_of_its_lines(monkeypatch, capsys, folder):
  lines = (b"\xef\xbb\xbfHi", b"", b"x" * 9000, b"caf\xe9", b"Go\x0b on", b"")
  pipe = io.TextIOWrapper(io.BytesIO(b"\n".join(lines)), "utf-8")
  monkeypatch.setattr("sys.stdin", pipe)
  asked = [f"--weights={folder}", "--max_new_tokens=2", "--mode=solve"]
  with pytest.raises(SystemExit) as stopped:
    chat.main([*asked, "--json"])
  assert stopped.value.code == 1
  said = capsys.readouterr()
  rows = list(map(json.loads, said.out.splitlines()))
  found = [(row["number"], row["prompt"]) for row in rows]
  assert found == [(0, "Hi"), (4, "Go\x0b on")]
  long, latin = said.err.splitlines()
  assert long.startswith("error: line 3: the prompt has 9")
  assert latin.startswith(r"error: line 4: the prompt holds '\udce9'")
