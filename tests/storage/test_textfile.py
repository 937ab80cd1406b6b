# SPDX-License-Identifier: Apache-2.0
"""Lines of files that users give."""

import subprocess

import pytest

from srl_jax.storage import textfile

# What str.splitlines takes for ends of lines, and text files do not.
INSIDE = "a\x0bb\x0cc\x1cd\x85e\u2028f\u2029g"


def test_lines_end_at_line_feeds_alone(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(f"{INSIDE}\n\nh\r\n i ".encode())
  assert textfile.read_lines(path) == [INSIDE, "", "h", " i "]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
  path = tmp_path / "a.txt"
  path.write_text("a\n\ufeffb", "utf-8-sig")
  assert textfile.read_lines(path) == ["a", "\ufeffb"]


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_the_command_for_another_encoding_makes_it_readable(tmp_path, codec):
  path, new = tmp_path / "a file.txt", tmp_path / "utf8-a file.txt"
  path.write_bytes("What is\nnaïve?\n".encode(codec))
  with pytest.raises(ValueError, match="a file") as caught:
    textfile.read_lines(path)
  said = str(caught.value)
  if codec == "cp1252":
    assert "line 2 is not UTF-8 at byte 2; " in said and "'naïve?'" in said
    command = said.partition("type: ")[2].removesuffix(")")
    command = command.replace("NEW", f"'{new}'")
  else:
    command = said.partition("type: ")[2].removesuffix(" and give that file")
  subprocess.run(command, shell=True, check=True)
  assert textfile.read_lines(new) == ["What is", "naïve?", ""]
