"""Pages in a real browser: `make test-browser` installs what that needs and runs it; `make test` leaves it out."""

import os
import shutil
import sys
from pathlib import Path

import pytest

if not os.environ.get("UNSHAKEN_BROWSER"):
    collect_ignore_glob = ["test_*.py"]

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "board"))
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    path = os.environ.get("UNSHAKEN_CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The board of the repository's own results."""
    from unshaken.board.collect import receipts
    from unshaken.board.pictures import pictures_of
    from unshaken.board.remake import commands
    from unshaken.board.reported import published
    from unshaken.board.site import write

    out = tmp_path_factory.mktemp("board") / "site"
    found = receipts([ROOT / "results"])
    write(out, found, published(), remake=commands, pictures=pictures_of(found))
    return out


@pytest.fixture
def opened(browser):
    """Open a page; what it says on the console, and asks for outside its folder, fails the test at the end."""
    contexts, said = [], []

    def open_page(address, **how):
        how = {"viewport": {"width": 1280, "height": 900}, "accept_downloads": True} | how
        context = browser.new_context(**how)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(f"{request.url} failed"))
        root = address.partition("#")[0].rpartition("/")[0]

        def seen(request):
            if not request.url.startswith((root, "data:", "blob:")):
                said.append(f"{request.url} was asked for")

        page.on("request", seen)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
