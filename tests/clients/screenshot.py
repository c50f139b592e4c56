"""Takes the picture of the page that the documents show.

    CF_CLI=build/bin/clusterfusion build/clients/bin/python tests/clients/screenshot.py OUT.png
"""
import sys
from pathlib import Path

from browser import Browser, find_program
from conftest import serving

SETTINGS = {"prompt": "Elizabeth looked at Mr. Darcy, and", "max_tokens": 120, "temperature": 0.7,
            "seed": 12}


def main() -> None:
    with serving() as server, Browser(find_program(), 1120, 640, 1.5) as page:
        page.prefer("light")
        page.open(server.url + "/")
        page.wait("document.querySelector('#facts .name')")
        for name, value in SETTINGS.items():
            page.run(f"document.querySelector('#{name}').select()")
            page.type(str(value))
        page.click("#generate")
        page.wait("!document.querySelector('#generate').hidden && "
                  "document.querySelectorAll('.token').length > 100")
        # A word on the left that was neither certain nor a surprise.
        page.run("tokens.filter(t => /^ [a-z]{4,}$/.test(t.name) && t.logprob < -0.7 && "
                 "t.logprob > -2.5 && t.element.offsetLeft < 600)[1].element.focus()")
        page.screenshot(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
