"""Images of the README: the app on a tumour, and a CT found in the collection.

`python -m scripts.images` needs the data, chromium and chromedriver.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from brainlib import paths
from brainlib.data import open_collection
from scripts import command

TUMOR = "Training/glioma/Tr-gl_0119.jpg"
"""A glioma of fold 0, whose patients the released network has not seen."""

CT = "Testing/notumor/Te-no_0043.jpg"
PORT, SIZE = 8931, (1200, 1150)
HEIGHT = 970
BUTTON = ".brainlib-drop button:not([disabled])"
_KEEP_INPUT = """
const open = HTMLInputElement.prototype.click;
HTMLInputElement.prototype.click = function () { this.id = 'probe'; document.body.append(this); };
"""


def main() -> None:
    """Write `docs/images/app.png` and `docs/images/ct.png`."""
    root, folder = open_collection("kaggle").root, paths.project_root() / "docs" / "images"
    Image.open(root / CT).convert("L").resize((448, 448)).save(folder / "ct.png")
    started = [sys.executable, "-m", "brainlib", "app", "--no-browser", "--port", str(PORT)]
    app = subprocess.Popen(started, cwd=paths.project_root(), stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in app.stderr if "http://" in line)
        address = next(word for word in line.split() if word.startswith("http://"))
        take_screenshot(address, root / TUMOR, folder / "app.png")
    finally:
        app.terminate()
        app.wait(30)


def take_screenshot(address: str, image: Path, target: Path) -> None:
    """Open the app, give it an image, and save what it shows."""
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "hide-scrollbars", "disable-dev-shm-usage",
                     f"window-size={SIZE[0]},{SIZE[1]}"):  # fmt: skip
        options.add_argument(f"--{argument}")
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    wait = WebDriverWait(browser, timeout=90)
    try:
        browser.get(address)
        wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, BUTTON))
        time.sleep(2)  # widgets connect after they are drawn
        browser.execute_script(_KEEP_INPUT)
        browser.find_element(By.CSS_SELECTOR, BUTTON).click()
        probe = browser.find_element(By.ID, "probe")
        browser.execute_script("arguments[0].style.display = 'block'", probe)
        probe.send_keys(str(image))
        browser.execute_script("arguments[0].remove()", probe)
        wait.until(lambda _: image.name in browser.find_element(By.TAG_NAME, "body").text)
        time.sleep(5)  # the maps come after the answer
        browser.save_screenshot(str(target))
    finally:
        browser.quit()
    Image.open(target).crop((0, 0, SIZE[0], HEIGHT)).save(target, optimize=True)


if __name__ == "__main__":
    command.run(main)
