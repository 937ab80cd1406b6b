# SPDX-License-Identifier: Apache-2.0
"""What clients are refused, and what happens when they or the engine leave."""

import dataclasses
import json
import socket
import threading
import time

import httpx
import pytest

from srl_jax.serve.schema import ApiError, read_chat, read_completion

TALK = [{"role": "user", "content": "Hi"}]
LONG = {"model": "tiny", "prompt": "Hi", "max_tokens": 150, "seed": 0}


def wait_until(condition, seconds=60):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, "it did not happen"
    time.sleep(0.01)


@pytest.mark.parametrize(
  ("change", "param"),
  [
    ({"best_of": 3}, "best_of"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"repetition_penalty": 1.1}, "repetition_penalty"),
    ({"min_p": 0.1}, "min_p"),
    ({"invented": 1}, "invented"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": 1e-50}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1e-50}, "top_p"),
    ({"top_k": 2**31}, "top_k"),
    ({"n": 0}, "n"),
    ({"n": True}, "n"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[1], []]}, "prompt"),
    ({"prompt": [1, -1]}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"seed": 1.5}, "seed"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": "no"}}, "include_usage"),
    ({"stream_options": {"invented": True}}, "invented"),
  ],
)
def test_what_cannot_be_done_is_refused_by_name(change, param):
  with pytest.raises(ApiError) as told:
    read_completion({"prompt": "a"} | change)
  assert told.value.param == param and told.value.status == 400
  assert param in str(told.value)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"tools": [{"type": "function"}]}, "tools is not supported.*tool calls"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"top_logprobs": 3}, "top_logprobs=3 without logprobs"),
    ({"messages": []}, "messages is empty"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "role='tool'"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, r"role=\['user'\]"),
    ({"messages": [{"role": {}, "content": "x"}]}, "role={}"),
    ({"messages": [TALK[0] | {"name": "bob"}]}, r"messages\[0\].name is not"),
    (
      {"messages": [TALK[0] | {"tool_calls": [{"id": "1"}]}]},
      "tool_calls is not supported: this server makes no tool calls",
    ),
    ({"messages": [{"role": "user", "content": None}]}, "content=None"),
    (
      {
        "messages": [
          {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}
        ]
      },
      "part of type 'image_url'",
    ),
  ],
)
def test_what_a_chat_cannot_have_is_refused(change, words):
  with pytest.raises(ApiError, match=words):
    read_chat({"messages": TALK} | change)


def test_what_asks_for_nothing_is_ignored():
  ask = read_chat(
    {
      "messages": [TALK[0] | {"name": None, "tool_calls": []}],
      "stream_options": {"include_usage": None},
      "tools": [],
      "tool_choice": "auto",
      "frequency_penalty": 0,
      "logit_bias": None,
      "user": "me",
      "invented": None,
      "response_format": {"type": "text"},
      "max_completion_tokens": 5,
      "top_k": -1,
    }
  )
  assert (ask.max_tokens, ask.top_k, ask.n, ask.temperature) == (5, 0, 1, 1.0)


def post(served, path, **more):
  return httpx.post(f"{served.url}/v1/{path}", timeout=300, **more)


@pytest.mark.parametrize(
  ("body", "status", "words"),
  [
    (b"{", 400, "not JSON"),
    (b"[]", 400, "JSON object"),
    (b"[" * 50_000, 400, "not JSON"),
    (b'{"prompt": "' + b"a" * 100_000 + b'"}', 413, "100000 bytes"),
    (b'{"prompt": "\\ud800"}', 400, "not JSON"),
    (b'{"prompt": ""}', 400, "empty"),
    (b'{"prompt": [99999999]}', 400, "99999999 is too large"),
  ],
)
def test_bodies_that_are_no_requests(served, body, status, words):
  answer = post(served, "completions", content=body)
  assert answer.status_code == status
  assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("announced", [50, 10**9])
def test_clients_that_leave_within_their_request(served, announced, capfd):
  request = (
    "POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
    f"Content-Length: {announced}\r\n\r\n{{"
  )
  with socket.create_connection(("127.0.0.1", served.port), timeout=60) as one:
    one.sendall(request.encode())
    if announced > 100_000:  # refused before it is sent
      assert b" 413 " in one.recv(100)
  assert httpx.get(f"{served.url}/health").status_code == 200


def test_errors_of_routes_have_the_format_of_the_others(served):
  for method, path, status in (
    ("GET", "/v1/completions", 405),
    ("GET", "/v2", 404),
    ("GET", "/v1/models/other", 404),
  ):
    answer = httpx.request(method, served.url + path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_health_and_metrics(served, monkeypatch):
  assert httpx.get(served.url + "/health", timeout=60).json()["status"] == "ok"
  post(served, "completions", json={"prompt": "a", "max_tokens": 3})
  lines = httpx.get(served.url + "/metrics", timeout=60).text.splitlines()
  values = {name: float(x) for name, x in map(str.split, lines)}
  assert values["srl_jax_completions_open"] == 0
  assert values["srl_jax_tokens_drawn_total"] >= 3
  assert values["srl_jax_slot_iterations_total"] >= 3
  # Large counters keep their last digits, whose differences are rates.
  monkeypatch.setattr(served.engine.counts, "requests", 1234567)
  said = httpx.get(served.url + "/metrics", timeout=60).text
  assert "srl_jax_requests_total 1234567\n" in said


def test_a_key_is_asked_for_where_there_is_one(serve):
  with serve(api_key="secret-é") as served:
    ask = {"json": {"prompt": "a", "max_tokens": 1}}
    for headers in ({}, {"authorization": "Bearer secret"}):
      answer = post(served, "completions", headers=headers, **ask)
      assert answer.status_code == 401
      assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(served.url + "/metrics", timeout=60).status_code == 401
    assert httpx.get(served.url + "/health", timeout=60).status_code == 200
    right = {"authorization": "Bearer secret-é".encode()}
    assert post(served, "completions", headers=right, **ask).status_code == 200


def test_more_than_the_queue_holds_is_refused_with_numbers(serve, monkeypatch):
  with serve(rows=1, slots=1, max_queue=2) as served:
    stream = served.engine._stream
    advance, waits = stream.advance, threading.Event()

    def held():
      assert waits.wait(60)
      return advance()

    monkeypatch.setattr(stream, "advance", held)
    answers = []

    def ask():
      answers.append(post(served, "completions", json=LONG).status_code)

    # One slot on each of the devices of the tests, and the queue.
    room = served.engine.capacity
    assert room == served.engine._stream.rows + 2
    threads = [threading.Thread(target=ask) for _ in range(room)]
    for thread in threads:
      thread.start()
    wait_until(lambda: served.engine.open == room)
    refused = post(served, "completions", json=LONG)
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert error["code"] == "queue_full"
    assert f"limit of {room}" in error["message"]
    assert "retry-after" in refused.headers
    # What can never be, no client should try again.
    never = post(
      served, "completions", json=LONG | {"n": 128, "prompt": ["a"] * 99}
    )
    assert never.status_code == 400
    assert f"the server takes {room}" in never.json()["error"]["message"]
    waits.set()
    for thread in threads:
      thread.join()
    assert answers == [200] * room
    assert post(served, "completions", json=LONG).status_code == 200


def test_events_are_lines_to_any_client(served):
  ask = {"prompt": "a\u2028b\x85c", "max_tokens": 1, "echo": True}
  text = post(served, "completions", json=ask | {"stream": True}).text
  lines = [line for line in text.splitlines() if line]
  assert all(line.startswith("data: ") for line in lines)


def test_a_request_that_is_scored_and_drawn_counts_once(serve):
  with serve(rows=1, slots=1, max_queue=1) as served:
    room = served.engine.capacity
    ask = {"prompt": ["a"] * room, "max_tokens": 2, "echo": True, "logprobs": 1}
    assert post(served, "completions", json=ask).status_code == 200
    assert served.engine.gauges()["requests_total"] == 1
    assert served.engine.open == 0


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_a_stopping_server_cuts_off_is_refused(
  serve, monkeypatch, stream
):
  with serve(context=4000, rows=1, slots=1) as served:
    advance = served.engine._stream.advance

    def slowly():
      time.sleep(0.1)
      return advance()

    monkeypatch.setattr(served.engine._stream, "advance", slowly)
    served.server.config.timeout_graceful_shutdown = 1
    answers = []

    def ask():
      ask = LONG | {"max_tokens": 3900, "stream": stream}
      answers.append(post(served, "completions", json=ask))

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: served.engine.open)
    served.server.should_exit = True
    thread.join()
  [answer] = answers
  if stream:
    *_, last, done = answer.text.split("\n\n")[:-1]
    assert answer.status_code == 200 and done == "data: [DONE]"
    told = json.loads(last.removeprefix("data: "))
  else:
    assert answer.status_code == 503
    told = answer.json()
  assert "was stopped before" in told["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slots(serve, stream):
  with serve(context=4000, rows=1, slots=1) as served:
    body = json.dumps(LONG | {"max_tokens": 3000, "stream": stream, "n": 2})
    client = socket.create_connection(("127.0.0.1", served.port))
    client.sendall(
      b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
      + f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    drawn = lambda: served.engine.gauges()["tokens_drawn_total"]  # noqa: E731
    wait_until(drawn)
    if stream:
      assert b"200 OK" in client.recv(100)
    assert served.engine.open == 2
    client.close()
    wait_until(lambda: served.engine.open == 0)
    wait_until(lambda: served.engine.gauges()["completions_running"] == 0)
    assert served.engine.counts.cancelled == 2
    assert drawn() < 3000
    # The slot is free for others.
    ask = {"prompt": "a", "max_tokens": 4}
    assert post(served, "completions", json=ask).status_code == 200


def test_a_failure_of_the_engine_is_told_to_all_and_stops_the_server(
  serve, monkeypatch
):
  with serve(rows=1, slots=1) as served:
    stream = served.engine._stream
    waits = threading.Event()

    def fail():
      if served.engine.open < 3:
        time.sleep(0.01)
        return []
      waits.wait(60)
      raise FloatingPointError("the device is gone")

    monkeypatch.setattr(stream, "advance", fail)
    answers = []

    def ask(**more):
      answers.append(post(served, "completions", json=LONG | more))

    threads = [
      threading.Thread(target=ask, kwargs=more)
      for more in ({}, {}, {"stream": True})
    ]
    for thread in threads:
      thread.start()
    wait_until(lambda: served.engine.open == 3)
    waits.set()
    for thread in threads:
      thread.join()
    assert all("device is gone" in answer.text for answer in answers)
    # The status of a stream is sent before anything can fail.
    assert sorted(x.status_code for x in answers) == [200, 500, 500]
    wait_until(lambda: served.server.should_exit)
    assert len(served.failures) == 1


def test_a_model_without_a_chat_template_refuses_conversations(serve, ready):
  with serve(dataclasses.replace(ready, chat=None)) as served:
    answer = post(served, "chat/completions", json={"messages": TALK})
  assert answer.status_code == 400
  assert "no chat template" in answer.json()["error"]["message"]


def test_a_text_begins_as_the_checkpoint_has_it(serve, ready):
  first = ready.run.tokenizer.special_id("<|endoftext|>")
  ask = {"echo": True, "logprobs": 0, "max_tokens": 0, "prompt": "Natalia"}
  with serve(dataclasses.replace(ready, first_ids=(first,))) as served:
    [choice] = post(served, "completions", json=ask).json()["choices"]
  assert choice["text"] == "Natalia"
  logprobs = choice["logprobs"]
  assert logprobs["tokens"][0] == "<|endoftext|>"
  assert "".join(logprobs["tokens"][1:]) == "Natalia"
  assert logprobs["text_offset"][:2] == [0, 0]
  assert logprobs["token_logprobs"][1] is not None
