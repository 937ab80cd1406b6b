# SPDX-License-Identifier: Apache-2.0
"""Words and characters."""


def is_vowel(character):
  """Whether a character is one of a, e, i, o, u."""
  return character.lower() in "aeiou"


def is_letter(character):
  """Whether a character is a letter of the English alphabet."""
  return "a" <= character.lower() <= "z"


def slug(title):
  """Joins the words of a title by hyphens, in lower case."""
  words = []
  word = ""
  for character in title.lower() + " ":
    if character.isalnum():
      word += character
    elif word:
      words.append(word)
      word = ""
  return "-".join(words)


def is_palindrome(text):
  """Whether the letters of a text read the same in both directions."""
  letters = [x.lower() for x in text if is_letter(x)]
  left, right = 0, len(letters) - 1
  while left < right:
    if letters[left] != letters[right]:
      return False
    left += 1
    right -= 1
  return True


def caesar(text, shift):
  """Moves each letter by `shift` places in the alphabet, round its end."""
  moved = []
  for character in text:
    if is_letter(character):
      first = ord("a") if character.islower() else ord("A")
      place = (ord(character) - first + shift) % 26
      character = chr(first + place)
    moved.append(character)
  return "".join(moved)


def pig_latin(word):
  """Moves leading consonants behind a word and adds "ay"; else "way"."""
  start = 0
  while start < len(word) and not is_vowel(word[start]):
    start += 1
  if start == 0:
    return word + "way"
  return word[start:] + word[:start] + "ay"


def run_lengths(text):
  """Writes each run of a character as the character and its length."""
  parts = []
  start = 0
  for place in range(1, len(text) + 1):
    if place == len(text) or text[place] != text[start]:
      parts.append(text[start] + str(place - start))
      start = place
  return "".join(parts)


def common_prefix(words):
  """Returns the longest text with which all words begin."""
  if not words:
    return ""
  prefix = words[0]
  for word in words[1:]:
    while not word.startswith(prefix):
      prefix = prefix[:-1]
  return prefix


def count_words(text):
  """Counts the words of a text, without their marks and capitals."""
  counts = {}
  for word in text.split():
    word = word.strip(".,;:!?").lower()
    if word:
      counts[word] = counts.get(word, 0) + 1
  return counts
