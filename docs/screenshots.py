"""Trains two small runs, opens them in TensorBoard and takes the screenshots in `docs/img`.

python docs/screenshots.py [directory]    # needs chromium, chromedriver, selenium and scikit-learn
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from sklearn.datasets import load_digits
from torch import nn

from lightning_gradguard import GradGuard

FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
STEPS, FAULTY = 600, range(300, 308)
#: Name of the file: the runs shown, whether dark, whether zoomed to the last incident, width and height of the screen.
SCREENSHOTS = {
    "guarded_unguarded": (("guarded", "unguarded"), False, False, 1280, 800),
    "rescued": (("guarded",), True, True, 1280, 800),
    "phone": (("guarded",), False, True, 400, 860),
}


class Digits(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(cnn())

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)


def cnn() -> OrderedDict[str, nn.Module]:
    """Eight convolutions with He's initialization."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(8):
        conv = nn.Conv2d(1 if i == 0 else 16, 16, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight)
        layers[f"block{i}"] = nn.Sequential(OrderedDict(conv=conv, act=nn.ReLU()))
    return OrderedDict(**layers, pool=nn.AdaptiveAvgPool2d(2), flat=nn.Flatten(), head=nn.Linear(64, 10))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same batches in every run; those in `FAULTY` have a wrong scale and sign."""
    x, y = load_digits(return_X_y=True)
    images, labels = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.tensor(y)
    generator = torch.Generator().manual_seed(0)
    picks = [torch.randint(len(y), (32,), generator=generator) for _ in range(STEPS)]
    return [(images[p] * (-300.0 if i in FAULTY else 1.0), labels[p]) for i, p in enumerate(picks)]


def train(root: Path, name: str, policy: str) -> None:
    torch.manual_seed(0)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=TensorBoardLogger(root, name="", version=name), log_every_n_steps=2,
        callbacks=[GradGuard(policy)], enable_progress_bar=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(Digits(), torch.utils.data.DataLoader(batches(), batch_size=None))


@contextmanager
def serve(logdir: Path) -> Iterator[str]:
    """Runs TensorBoard and yields its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0", "--host", "127.0.0.1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield next(match[0] for line in process.stderr or () if (match := re.search(r"http://\S+:\d+/", line)))
        finally:
            process.terminate()


def shown(driver: webdriver.Chrome) -> list[str]:
    """The runs that are drawn; none while the tab is busy."""
    idle = driver.execute_script("return document.querySelector('main').getAttribute('aria-busy') === 'false'")
    return [found.text for found in driver.find_elements(By.CSS_SELECTOR, ".figure h2")] if idle else []


def take_screenshots(address: str, out: Path) -> None:
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={tempfile.mkdtemp()}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options)
    wait = WebDriverWait(driver, 60, 0.2, ignored_exceptions=[Exception])
    for name, (runs, dark, focus, width, height) in SCREENSHOTS.items():
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        driver.get("about:blank")
        driver.get(f"{address}?darkMode={str(dark).lower()}#gradguard")
        wait.until(lambda d: d.switch_to.frame(d.find_element(By.CSS_SELECTOR, "iframe[src*='gradguard']")) or True)
        wait.until(lambda d: len(d.find_elements(By.CSS_SELECTOR, ".run")) == 2 and shown(d))
        for run in ("guarded", "unguarded"):
            box = driver.find_element(By.XPATH, f"//label[contains(@class, 'run')][.//span[text()='{run}']]/input")
            if box.is_selected() != (run in runs):
                driver.execute_script("arguments[0].click()", box)  # the side bar may be folded
        wait.until(lambda d, runs=runs: shown(d) == [*runs])
        if focus:
            driver.find_element(By.TAG_NAME, "body").send_keys("p")
            wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, "[aria-pressed='true'].incident") and shown(d))
        time.sleep(1)  # for the table of values
        driver.save_screenshot(str(out / f"{name}.png"))
        Image.open(out / f"{name}.png").convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(
            out / f"{name}.png", optimize=True
        )
    driver.quit()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        train(root, "unguarded", "monitor")
        train(root, "guarded", "protect")
        out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "img"
        out.mkdir(parents=True, exist_ok=True)
        with serve(root) as address:
            take_screenshots(address, out)
