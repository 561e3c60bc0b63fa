"""Reports in a real browser: a silent console, every picture there, no request, readable on phones and in the dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, WHY_NOT, Browser, Page, opened
from report_runs import HOSTILE, NAMES, answers, steps, write_run

from blob_pyro.report.page import write_report

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)]

OPEN_ALL = "document.querySelectorAll('details').forEach(d => d.open = true)"
PICTURES = "[...document.images].map(i => i.naturalWidth)"
# Contrast as in WCAG 2, of every element with a text of its own against the first opaque ground behind it.
CONTRASTS = """(() => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = numbers(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (numbers(c).length < 4 || numbers(c)[3] === 1) return c; } return 'rgb(255, 255, 255)'; };
  const texts = [...document.body.querySelectorAll('*')].filter(e => [...e.childNodes]
    .some(n => n.nodeType === 3 && n.textContent.trim()));
  return texts.map(e => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.textContent.trim().slice(0, 40)]; });
})()"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with opened() as browser:
        yield browser


@pytest.fixture
def page(chromium: Browser) -> Page:
    return chromium.new_page()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report on one run whose texts are hostile and long, and one on three runs."""
    folder = tmp_path_factory.mktemp("reports")
    hostile = {i: f"{HOSTILE} {'x' * 700} {i} \u202e\x00" for i in range(300)}
    labels = [HOSTILE, *NAMES[1:]]
    one = write_run(folder / "a<b>&'\"", prompts=hostile, data={"labels": labels}, notes=(f"test: {HOSTILE} share x",))
    blob = [write_run(folder / f"blob{seed}", answers(seed=0), seed=seed) for seed in (0, 1)]
    mle = write_run(folder / "mle", answers(num_draws=1, sharp=3), steps(scale=None), guide={"name": "mle"})
    return {
        "one": write_report([one], folder / "one.html"),
        "several": write_report([mle, *blob], folder / "several.html"),
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["one", "several"])
def test_a_report_shows_itself(page: Page, reports: dict[str, Path], name: str, width: int, dark: bool) -> None:
    page.show(reports[name], width=width, dark=dark)
    page.evaluate(OPEN_ALL)
    assert not page.errors
    assert page.requests == [reports[name].as_uri()], "the report itself, and nothing else"
    pictures = page.evaluate(PICTURES)
    assert len(pictures) >= 8 and all(width > 0 for width in pictures)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "it overflows to the right"
    shown = page.evaluate("[...document.images].map(i => i.getBoundingClientRect().width)")
    assert min(shown) >= 250, "a picture is too small to be read"
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(red, green, blue) < 60 if dark else min(red, green, blue) > 240
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 50 and min(contrasts)[0] >= 4.5, min(contrasts)
    behind = set(page.evaluate("[...document.images].map(i => getComputedStyle(i.parentElement).backgroundColor)"))
    assert behind == {"rgb(255, 255, 255)"}, "dark lines of pictures stand on white, in the dark too"


def test_hostile_texts_do_nothing(page: Page, reports: dict[str, Path]) -> None:
    page.show(reports["one"], width=1280)
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.title").startswith("Run a<b>&'\"")
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("[...document.images].every(i => i.src.startsWith('data:image/svg+xml;base64,'))")
    assert page.evaluate("document.body.textContent").count("<script>document.title") >= 20, "it is there, as text"
    assert page.evaluate("[...document.querySelectorAll('*')].flatMap(e => [...e.attributes])"
                         ".filter(a => a.name.startsWith('on')).length") == 0  # fmt: skip


@pytest.mark.parametrize("inserted", [
    "<script>document.title = 'hit'</script>", "<img src='https://example.com/x.png'>",
    "<style>body { color: red }</style>",
    "<iframe src='https://example.com'></iframe>", "<link rel='stylesheet' href='https://example.com/x.css'>",
])  # fmt: skip
def test_the_policy_stops_what_would_get_in(
    page: Page, reports: dict[str, Path], tmp_path: Path, inserted: str
) -> None:
    """Were something not escaped, the browser would refuse it, and say so: errors are seen here."""
    text = reports["one"].read_text(encoding="utf-8")
    file = tmp_path / "altered.html"
    file.write_text(text.replace("<main>", f"<main>{inserted}"), encoding="utf-8")
    page.show(file, width=1280)
    assert any("Content Security Policy" in error for error in page.errors)
    assert page.evaluate("document.title").startswith("Run ")
    assert page.evaluate("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"


def test_requests_and_broken_pictures_would_be_seen(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text("<img src='http://example.com/x.png'><script>console.error('oh'); throw Error('no')</script>")
    page.show(file, width=390)
    assert "http://example.com/x.png" in page.requests
    assert len(page.errors) >= 2 and page.evaluate(PICTURES) == [0]
