# SPDX-License-Identifier: Apache-2.0
"""Small checkpoint folders in the real file formats, without weights.

Tokenizers are trained here, with the pre-tokenizers, normalisers and control
tokens of each family; chat templates are condensed from the family's own. The
folders contain the rules of real models and nothing else of them.
"""

from __future__ import annotations

import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tests.support.trajectories import word_problems

_QWEN = {
  "regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
  "control": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
  "plain": ("<tool_call>", "<|fim_prefix|>"),
  "tokenizer_class": "Qwen2Tokenizer",
  "bos_token": None,
  "eos_token": "<|im_end|>",
  "pad_token": "<|endoftext|>",
  "stops": ("<|im_end|>", "<|endoftext|>"),
}
_LLAMA = {
  "regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
  "control": (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
  ),
  "plain": (),
  "tokenizer_class": "PreTrainedTokenizerFast",
  "bos_token": "<|begin_of_text|>",
  "eos_token": "<|eot_id|>",
  "pad_token": "<|finetune_right_pad_id|>",
  "stops": ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
}
# GPT-2's regex, which the library has itself, and single digits.
_SMOLLM = {
  "regex": None,
  "control": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
  "plain": (),
  "tokenizer_class": "GPT2Tokenizer",
  "bos_token": None,
  "eos_token": "<|im_end|>",
  "pad_token": "<|im_end|>",
  "stops": ("<|im_end|>",),
}
_GEMMA = {
  "control": ("<start_of_turn>", "<end_of_turn>"),
  # User-defined pieces: runs of line breaks and of spaces are single tokens.
  "plain": (
    "<unused0>",
    *("\n" * n for n in range(1, 6)),
    *("\u2581" * n for n in range(2, 6)),
  ),
  "tokenizer_class": "GemmaTokenizer",
  "add_bos_token": True,
  "bos_token": "<bos>",
  "eos_token": "<eos>",
  "pad_token": "<pad>",
  "unk_token": "<unk>",
  "stops": ("<eos>", "<end_of_turn>"),
}

QWEN2_5 = r"""{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}
{%- else %}
    {{- '<|im_start|>system\nYou help.<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == "user" or (m.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- elif m.role == "assistant" %}
        {{- '<|im_start|>' + m.role }}
        {%- if m.content %}
            {{- '\n' + m.content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
# Puts the thought of the assistant's last turn into a separate block.
QWEN3 = r"""{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if m.role == "user" and not m.content.startswith('<tool_response>') %}
        {%- set ns.last = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == "user" or (m.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
    {%- elif m.role == "assistant" %}
        {%- set content, thought = m.content, '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0] %}
            {%- set thought = thought.split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last %}
            {{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') }}
            {{- '\n</think>\n\n' + content }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
LLAMA3_1 = r"""{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}
    {{- m['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
LLAMA3_2 = LLAMA3_1.replace('"26 Jul 2024"', 'strftime_now("%d %b %Y")')
GEMMA2 = (
  "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
  "{{ raise_exception('System role not supported') }}{% endif %}"
  "{% for m in messages %}"
  "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
  "{{ raise_exception('Roles must alternate user/assistant/...') }}{% endif %}"
  "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
  "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim"
  " + '<end_of_turn>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Puts the system message before the user's message, in the user's turn.
GEMMA3 = r"""{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set prefix = messages[0]['content'] + '\n\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set prefix = "" -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for m in turns -%}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Roles must alternate user/assistant/...") }}
    {%- endif -%}
    {%- set role = 'model' if m['role'] == 'assistant' else m['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (prefix if loop.first else "") }}
    {%- if m['content'] is string -%}
        {{ m['content'] | trim }}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""

# Family -> (rules of its tokenizer, its chat template).
FAMILIES = {
  "qwen2_5": (_QWEN, QWEN2_5),
  "qwen3": (_QWEN | {"plain": (*_QWEN["plain"], "<think>", "</think>")}, QWEN3),
  "smollm2": (_SMOLLM, QWEN2_5),
  "llama3_1": (_LLAMA, LLAMA3_1),
  "llama3_2": (_LLAMA, LLAMA3_2),
  "gemma2": (_GEMMA | {"file": "tokenizer.json"}, GEMMA2),
  "gemma3": (_GEMMA | {"file": "tokenizer.model"}, GEMMA3),
}

# In composed Unicode form, as texts compared with Hugging Face's ids must be.
SAMPLES = (
  "Natalia sold 48/2 = 24 clips in May.\nShe sold 48+24 = 72 altogether.\n\n",
  "$$\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}2$$ \\boxed{\\frac12}",
  "def f(x):\n    if x:\n\t\treturn {'a': [1, 2.5e-3]}  # it's ok\r\n\n\n",
  "你好，世界。 日本語テキスト 한국어 नमस्ते العربية עברית Ελληνικά naïve café",
  "emoji 🙂👩‍👩‍👧‍👦🏳️‍🌈 and flags 🇨🇭 and 1,234,567 007 3.14",
  "  leading and  double   spaces    and\ttabs\t\tat the end  \n",
  "<think>plain</think> <tool_call>x</tool_call> a < b > c & \"d\" 'e'",
)


def corpus() -> list[str]:
  """Returns the texts that the tokenizers are trained on."""
  texts = list(SAMPLES) * 2
  for trajectory in word_problems(200, seed=1):
    solution = (step.text for step in trajectory.steps)
    texts.append("\n\n".join((trajectory.problem, *solution)))
  return texts


_SETTINGS = (
  "tokenizer_class",
  "add_bos_token",
  "bos_token",
  "eos_token",
  "pad_token",
  "unk_token",
)


def write(folder: pathlib.Path, family: str, **changes: Any) -> pathlib.Path:
  """Writes a checkpoint folder of a family; returns it.

  Args:
    folder: folder to create.
    family: a key of FAMILIES.
    **changes: entries of tokenizer_config.json; None removes an entry.
  """
  rules, template = FAMILIES[family]
  folder.mkdir(parents=True, exist_ok=True)
  if "regex" in rules:
    ids = _write_byte_level(folder / "tokenizer.json", rules)
  else:
    ids = _write_gemma(folder, rules)
  added = dict.fromkeys(rules["plain"], False)
  added |= dict.fromkeys(_specials(rules), True)
  settings = {
    **{name: rules[name] for name in _SETTINGS if name in rules},
    "chat_template": template,
    "added_tokens_decoder": {
      str(ids[name]): _added(name, special) for name, special in added.items()
    },
  } | changes
  settings = {k: v for k, v in settings.items() if v is not None}
  write_json(folder / "tokenizer_config.json", settings)
  stops = [ids[name] for name in rules["stops"]]
  write_json(folder / "generation_config.json", {"eos_token_id": stops})
  model = {
    "vocab_size": len(ids),
    "bos_token_id": ids[rules["bos_token"] or "<|endoftext|>"],
    "eos_token_id": ids[rules["eos_token"]],
  }
  write_json(folder / "config.json", model)
  return folder


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Writes an object as JSON in the style of such files."""
  text = json.dumps(value, ensure_ascii=False, indent=2)
  path.write_text(text, encoding="utf-8")


def control_tokens(family: str) -> tuple[str, ...]:
  """Returns the names that the files of a family flag as control tokens."""
  return _specials(FAMILIES[family][0])


def _specials(rules):
  roles = (rules.get(f"{r}_token") for r in ("pad", "eos", "bos", "unk"))
  return tuple(dict.fromkeys(filter(None, (*roles, *rules["control"]))))


def _added(name: str, special: bool) -> dict[str, Any]:
  flags = dict.fromkeys(
    ("lstrip", "rstrip", "single_word", "normalized"), False
  )
  return {"content": name, **flags, "special": special}


def _write_byte_level(path: pathlib.Path, rules) -> dict[str, int]:
  """Writes a tokenizer like those of Qwen, Llama 3, SmolLM2: byte-level BPE."""
  model = tokenizers.Tokenizer(models.BPE())
  if rules["regex"] == _QWEN["regex"]:
    model.normalizer = normalizers.NFC()
  split = pre_tokenizers.Digits(individual_digits=True)
  if rules["regex"]:
    split = pre_tokenizers.Split(tokenizers.Regex(rules["regex"]), "isolated")
  bytes_ = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=not rules["regex"]
  )
  model.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
  model.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=900,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  model.train_from_iterator(corpus(), trainer)
  token = tokenizers.AddedToken
  model.add_special_tokens([token(n, special=True) for n in rules["control"]])
  model.add_tokens([token(n, normalized=False) for n in rules["plain"]])
  bos = rules["bos_token"]
  if bos:
    model.post_processor = tokenizers.processors.TemplateProcessing(
      single=f"{bos} $A", special_tokens=[(bos, model.token_to_id(bos))]
    )
  model.save(str(path))
  return model.get_vocab()


def _write_gemma(folder: pathlib.Path, rules) -> dict[str, int]:
  """Writes a tokenizer like Gemma's: SentencePiece BPE or tokenizer.json."""
  written = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    # Gemma has no piece for the tab, only its byte.
    sentence_iterator=(text.replace("\t", " ") for text in corpus()),
    model_writer=written,
    model_type="bpe",
    vocab_size=1200,
    hard_vocab_limit=False,
    byte_fallback=True,
    split_digits=True,
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    allow_whitespace_only_pieces=True,
    normalization_rule_name="identity",
    user_defined_symbols=[*rules["control"], *rules["plain"]],
    **{f"{name}_id": i for i, name in enumerate(("pad", "eos", "bos", "unk"))},
    **{f"{n}_piece": f"<{n}>" for n in ("pad", "eos", "bos", "unk")},
    minloglevel=2,
  )
  model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
  ids = {model.id_to_piece(i): i for i in range(model.vocab_size())}
  if rules["file"] == "tokenizer.model":
    (folder / "tokenizer.model").write_bytes(written.getvalue())
  else:
    _save_gemma_json(folder / "tokenizer.json", ids, rules)
  return ids


def _save_gemma_json(path: pathlib.Path, ids: dict[str, int], rules) -> None:
  vocab = dict(ids)
  # In Gemma's file the tab itself replaces its byte.
  vocab["\t"] = vocab.pop("<0x09>")
  merges = [
    (piece[:i], piece[i:])
    for piece in sorted(vocab, key=vocab.get)
    for i in range(1, len(piece))
    if piece[:i] in vocab and piece[i:] in vocab
  ]
  model = tokenizers.Tokenizer(
    models.BPE(
      vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
  )
  model.normalizer = normalizers.Replace(" ", "\u2581")
  model.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
  model.decoder = decoders.Sequence(
    [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
  )
  token = tokenizers.AddedToken
  model.add_special_tokens(
    [token(n, normalized=False, special=True) for n in _specials(rules)]
  )
  model.add_tokens([token(n, normalized=False) for n in rules["plain"]])
  model.post_processor = tokenizers.processors.TemplateProcessing(
    single="<bos> $A", special_tokens=[("<bos>", ids["<bos>"])]
  )
  model.save(str(path))
