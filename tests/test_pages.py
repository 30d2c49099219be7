"""The committed pages: their links resolve, in the repository, in the site and in wheels."""

import re
import subprocess
from pathlib import Path

import pytest
from rp_testing.pages import prose

ROOT = Path(__file__).parents[1]
LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
PAGES = sorted(ROOT / line for line in LISTED.splitlines())


def name_of(page):
    return str(page.relative_to(ROOT))


def text_of(page):
    """A page's text, with the pages that it includes in the site."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r'^--8<-- "(.*)"$', lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), text, flags=re.M)


def anchors(text):
    """The ids of an HTML page, or those that a Markdown page's headings get: lower case, hyphens, no punctuation."""
    if text.startswith("<!doctype html>"):
        return set(re.findall(r'\bid="([^"]+)"', text))
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_the_site_is_in_its_navigation():
    """mkdocs refuses a page that is not, and a line without a page."""
    listed = set(re.findall(r"([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in PAGES if page.is_relative_to(ROOT / "docs")}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        target = target / "README.md" if target.is_dir() else target
        assert not anchor or anchor in anchors(text_of(target)), link
        if page.is_relative_to(ROOT / "docs"):
            assert target.resolve().is_relative_to(ROOT / "docs"), f"{link} leads out of the site"
        assert not page.is_relative_to(ROOT / "packages"), f"{link} leads nowhere from a wheel: name the file in words"
