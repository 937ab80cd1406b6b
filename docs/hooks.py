# SPDX-License-Identifier: Apache-2.0
"""MkDocs hooks: the site also shows files that lie outside docs/.

A page of docs/ links to such a file by its path in the repository, for example
`../benchmarks/RESULTS.md`. That link works where the repository is browsed;
here it is shortened to the place that the file has in the site.
"""

from __future__ import annotations

import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
OUTSIDE = (
  "CHANGELOG.md",
  "CONTRIBUTING.md",
  "README.md",
  "benchmarks/README.md",
  "benchmarks/RESULTS.md",
)
_UP_TO_OUTSIDE = re.compile(
  rf"\]\(\.\./((?:\.\./)*(?:{'|'.join(map(re.escape, OUTSIDE))}))"
)
_INTO_DOCS = re.compile(r"\]\(((?:\.\./)*)docs/")


def on_files(files, config):
  """Adds the files of `OUTSIDE` as pages."""
  for name in OUTSIDE:
    text = (ROOT / name).read_text(encoding="utf-8")
    files.append(File.generated(config, name, content=text))
  return files


def on_page_markdown(markdown, page, config, files):
  """Turns links of the repository into links of the site."""
  if page.file.src_uri in OUTSIDE:
    return _INTO_DOCS.sub(r"](\1", markdown)
  return _UP_TO_OUTSIDE.sub(r"](\1", markdown)
