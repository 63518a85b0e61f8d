"""A headless Chromium, and pages in it that must load cleanly and from one place only."""

import shutil
from urllib.parse import urlsplit

import pytest

# What a page may say on the console while its server is away.
_ABSENCE = (
    "ERR_CONNECTION_REFUSED",
    "ERR_CONNECTION_RESET",
    "ERR_EMPTY_RESPONSE",
    "ERR_INCOMPLETE_CHUNKED",
)
_REPORT_VIOLATIONS = """
    window.violations = [];
    const note = (event) => window.violations.push(event.violatedDirective);
    addEventListener("securitypolicyviolation", note);
"""


def chromium():
    """Return the path of a Chromium, None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser():
    """Return a browser; it is gone before tests of other kinds begin."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'"
    )
    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium: apt install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """Opens pages of one server and keeps what they did."""

    def __init__(self, browser, base):
        self._browser, self.base = browser, base
        self._contexts = []
        self.pages = []
        self.hosts = set()
        self.complaints = []
        self.is_away = False  # the server, on purpose

    def open(self, path="/current_status", *, wait_for="live", **context):
        """Open a page in a context of its own; wait for the state that it shows."""
        made = self._browser.new_context(**context)
        made.set_default_timeout(20_000)
        made.add_init_script(_REPORT_VIOLATIONS)
        self._contexts.append(made)
        page = made.new_page()
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.pages.append(page)
        page.goto(self.base + path)
        if wait_for:
            page.wait_for_selector(f"#state[data-state={wait_for}]")
        return page

    def _listen(self, message):
        if message.type not in {"error", "warning"}:
            return
        if not (self.is_away and any(word in message.text for word in _ABSENCE)):
            self.complaints.append(message.text)

    def close(self):
        for page in self.pages:
            self.complaints += page.evaluate("window.violations ?? []")
        for context in self._contexts:
            context.close()


@pytest.fixture
def visit(browser):
    """Return a function that begins visits; at the end nobody may have complained."""
    visits = []

    def begin(base):
        visits.append(Visit(browser, base))
        return visits[-1]

    yield begin
    for each in visits:
        each.close()
    for each in visits:
        assert each.complaints == []
        assert each.hosts <= {urlsplit(each.base).netloc}
