# SPDX-License-Identifier: Apache-2.0
"""Small languages: expressions, settings, versions and rows of values."""


def tokenize(text):
  """Cuts an expression into numbers and signs."""
  tokens = []
  place = 0
  while place < len(text):
    start = place
    while place < len(text) and text[place].isdigit():
      place += 1
    if place > start:
      tokens.append(text[start:place])
    else:
      if text[place] != " ":
        tokens.append(text[place])
      place += 1
  return tokens


def parse_term(tokens):
  """Takes a product off the tokens and returns its value."""
  value = parse_factor(tokens)
  while tokens and tokens[0] == "*":
    tokens.pop(0)
    value *= parse_factor(tokens)
  return value


def parse_factor(tokens):
  """Takes a number, or a sum in parentheses, off the tokens."""
  token = tokens.pop(0)
  if token == "-":
    return -parse_factor(tokens)
  if token == "(":
    value = parse_sum(tokens)
    tokens.pop(0)
    return value
  return int(token)


def parse_sum(tokens):
  """Takes a sum of products off the tokens and returns its value."""
  value = parse_term(tokens)
  while tokens and tokens[0] in ("+", "-"):
    if tokens.pop(0) == "+":
      value += parse_term(tokens)
    else:
      value -= parse_term(tokens)
  return value


def evaluate(text):
  """Returns the value of an expression of whole numbers with + - * ( )."""
  return parse_sum(tokenize(text))


def is_balanced(text):
  """Whether brackets of three kinds are closed in the right order."""
  pairs = {")": "(", "]": "[", "}": "{"}
  opened = []
  for character in text:
    if character in pairs.values():
      opened.append(character)
    elif character in pairs and (
      not opened or opened.pop() != pairs[character]
    ):
      return False
  return not opened


def parse_settings(text):
  """Reads lines of key=value; # begins a comment; later lines win."""
  settings = {}
  for line in text.splitlines():
    line = line.split("#", 1)[0].strip()
    if "=" not in line:
      continue
    key, value = line.split("=", 1)
    settings[key.strip()] = value.strip()
  return settings


def is_newer(version, other):
  """Whether a version such as 1.10 comes after another one."""
  left = [int(part) for part in version.split(".")]
  right = [int(part) for part in other.split(".")]
  length = max(len(left), len(right))
  left += [0] * (length - len(left))
  right += [0] * (length - len(right))
  return left > right


def split_row(line, mark=","):
  """Cuts a row at each mark that does not stand between double quotes."""
  cells = []
  cell = ""
  is_quoted = False
  for character in line:
    if character == '"':
      is_quoted = not is_quoted
    elif character == mark and not is_quoted:
      cells.append(cell)
      cell = ""
    else:
      cell += character
  cells.append(cell)
  return cells


def parse_query(text):
  """Reads a=1&b=2 into lists of values by their names."""
  values = {}
  for part in text.lstrip("?").split("&"):
    if not part:
      continue
    name, _, value = part.partition("=")
    values.setdefault(name, []).append(value.replace("+", " "))
  return values
