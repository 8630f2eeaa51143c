"""Write docs/pictures/page.png, a picture of a page: ``python docs/make_screenshot.py``.

The picture is committed, since it needs a browser: ``pip install '.[browser]'``, and Chromium.
"""

import shutil
import tempfile
from pathlib import Path

from make_gallery import two_layers
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "pictures/page.png"
SIZE = {"width": 1060, "height": 640}


def main() -> None:
    """Write the picture of the first page of the gallery: a gradient, and the sum behind it."""
    trace, link, _ = two_layers()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "page.html")
        trace.to_html(file)
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, device_scale_factor=1.5, color_scheme="light")
        page.goto(f"{file.as_uri()}{link}")
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    main()
