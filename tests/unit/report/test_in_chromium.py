"""The pages in headless Chromium, where there is one: no script error, no objection of axe-core, no overflow."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from diffreid_lightning.report.dataset_browser import write_browser
from diffreid_lightning.report.page import write_report
from tests.unit.report.conftest import REASON, make_manifest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
    pytest.mark.skipif(find_spec("axe_core_python") is None, reason="axe-core-python is not installed"),
]
_CHECK = """
<script>%(axe)s</script><script>
const errors = [], wait = (ms) => new Promise((done) => setTimeout(done, ms));
window.onerror = (text) => { errors.push(text); };
window.addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
window.addEventListener("load", async () => {
  const seen = [], look = () => seen.push({
    status: document.getElementById("status")?.textContent, images: document.querySelectorAll("main img").length,
    first: document.querySelector("main dd")?.textContent, rejected: document.querySelectorAll(".rejected").length});
  await wait(500); look();
  %(actions)s
  const result = await axe.run(document);
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  const found = {errors, seen, wide, violations: result.violations.map((each) => each.id + ": " + each.help)};
  document.body.innerHTML = "";
  document.body.setAttribute("data-found", JSON.stringify(found));
});
</script></body>"""


def visit(page: Path, tmp_path: Path, size: str, scheme: str, actions: str = "") -> dict[str, Any]:
    """Open a copy of a page with a script in it that acts and looks; return what it found."""
    axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page.read_text(encoding="utf-8"))
    copy = page.with_name("checked.html")
    copy.write_text(text.replace("</body>", _CHECK % {"axe": axe, "actions": actions}), encoding="utf-8")
    scheme_flag = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    words = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", *scheme_flag, "--dump-dom",
        copy.resolve().as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'data-found="([^"]*)"', shown)
    assert found is not None, shown[-2000:]
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert result["errors"] == []
    assert result["violations"] == []
    assert result["wide"] <= 0, "the page is wider than its window"
    return result


@pytest.mark.parametrize(("size", "scheme"), [("1280,900", "light"), ("500,900", "dark")])
def test_a_report_is_readable(chain: Path, tmp_path: Path, size: str, scheme: str) -> None:
    write_report([str(chain)], tmp_path / "report.html")
    visit(tmp_path / "report.html", tmp_path, size, scheme)


def test_a_dataset_is_paged_sorted_and_filtered(tmp_path: Path) -> None:
    """150 images in three pages: their confidence falls, every third was rejected."""
    names = [f"{number:03d}.jpg" for number in range(150)]
    kept = [number % 3 > 0 for number in range(150)]
    manifest = make_manifest(
        tmp_path / "set", names, pid=[number // 50 for number in range(150)],
        confidence=[1 - number / 200 for number in range(150)], kept=kept,
        reason=[REASON if not one else "kept" for one in kept],
    )  # fmt: skip
    write_browser([manifest], tmp_path / "pages", "150 images", lambda done, count: None)
    actions = """
    document.getElementById("next").click(); await wait(300); look();
    const choose = (id, text) => {
      const list = document.getElementById(id);
      list.value = [...list.options].find((each) => each.text === text).value; list.onchange?.();
    };
    choose("sort", "confidence"); await wait(300); look();
    choose("column", "kept"); await wait(300);
    document.getElementById("value").value = "false";
    document.getElementById("filter").requestSubmit(); await wait(300); look();
    """
    found = visit(tmp_path / "pages/index.html", tmp_path, "1280,900", "light", actions)
    first, second, sorted_, filtered = found["seen"]
    assert first["status"] == "150 of 150 images, page 1 of 3" and first["images"] == 60
    assert second["status"] == "150 of 150 images, page 2 of 3"
    assert sorted_["first"] == "149.jpg", "the least confident first"
    assert filtered["status"] == "50 of 150 images, page 1 of 1"
    assert filtered["images"] == 50 and filtered["rejected"] == 50
