# SPDX-License-Identifier: Apache-2.0
"""How long does a report of 2,000 rollouts take to open and to filter?

  python -m benchmarks.report_page
  python -m benchmarks.report_page --workdir=/tmp/srl --screenshot=report.png

Opens a report in headless Chromium, by Playwright (extra "report"), and prints
times. Without --workdir the run is made up: 2,112 samples whose thoughts have
400 words.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import tempfile
import time

from srl_jax.report.page import make_page
from srl_jax.report.runs import read_runs
from srl_jax.testing.reports import write_run

# Time until what a filter found is on the screen: two frames after the change.
_FILTER = """([name, value]) => new Promise((resolve) => {
  const form = document.getElementById("filters");
  const found = document.getElementById("found");
  const start = performance.now();
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() =>
      resolve([(performance.now() - start) / 1000, found.textContent])));
  }).observe(found, {childList: true});
  form.elements[name].value = value;
  form.elements[name].dispatchEvent(new Event("input", {bubbles: true}));
})"""
FILTERS = (
  ("text", "12 is"),
  ("text", "no such words"),
  ("text", ""),
  ("low", "0.5"),
  ("failure", "whole"),
)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--workdir", action="append", help="of a run")
  parser.add_argument("--screenshot", help="file to write a picture into")
  parser.add_argument(
    "--chromium", default=shutil.which("chromium"), help="the browser"
  )
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    workdirs = args.workdir or [
      write_run(
        pathlib.Path(folder, "run"),
        moments=(0, 9, 10, 19),
        trajectories=11,
        steps=6,
        samples=8,
        words=400,
      )
    ]
    start_s = time.monotonic()
    page = make_page(read_runs(workdirs))
    print(f"made in         {time.monotonic() - start_s:5.2f} s")
    path = pathlib.Path(folder, "report.html")
    path.write_text(page, encoding="utf-8")
    print(f"size            {path.stat().st_size / 1e6:5.2f} MB")
    measure(path, args.chromium, args.screenshot)


def measure(path: pathlib.Path, chromium: str, screenshot: str | None) -> None:
  """Opens a page and prints times."""
  from playwright.sync_api import sync_playwright

  with sync_playwright() as playwright:
    browser = playwright.chromium.launch(
      executable_path=chromium, args=["--no-sandbox"]
    )
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    start_s = time.monotonic()
    page.goto(path.as_uri())
    page.wait_for_selector(".entry")
    print(f"opened in       {time.monotonic() - start_s:5.2f} s")
    page.wait_for_selector("html[data-drawn=yes]")
    print(f"charts drawn in {time.monotonic() - start_s:5.2f} s")
    for name, value in FILTERS:
      seconds, found = page.evaluate(_FILTER, [name, value])
      print(f"filtered in     {seconds:5.2f} s  {name}={value!r}: {found}")
    if screenshot:
      page.click("#filters button[type=reset]")
      page.wait_for_timeout(200)
      page.locator("#detail select[name=beside]").select_option(index=2)
      page.screenshot(path=screenshot)
    browser.close()


if __name__ == "__main__":
  main()
