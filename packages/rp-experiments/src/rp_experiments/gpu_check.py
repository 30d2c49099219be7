"""The work of `gpu_check.py`: sections that measure one thing each, in order of value, within a limit of seconds."""

import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rp_models
import torch
from rp_attacks import APGD, PGD
from rp_dra import ClassifierSettings, ClassifierTrainer, TrainingSettings, objective_of
from rp_models import noise
from rp_models.arithmetic import Flops, without_onednn
from rp_models.data import describe
from rp_models.data.images import ImageSet
from rp_models.settings import ComputeSettings
from rp_models.training.devices import describe_device
from rp_purify import DiffPure, MAEPure
from torch import Tensor

from rp_experiments import tables
from rp_experiments.estimate.cards import CARDS, Card
from rp_experiments.layouts import layouts
from rp_experiments.run import Run

SECONDS = {"machine": 15, "agreement": 60, "throughput": 150, "waits": 60, "layouts": 60, "apps": 200}
"""The sections in order of value, and about how long each takes on a GPU."""
WAITS = {"training step": 1, "attack, 5 steps": 0, "purification, 2 steps": 0}
"""The synchronising calls that are allowed, as they are counted without a GPU."""
TOLERANCE = 5e-3  # of a value on the CPU, relative to the norm; float32 without TF32


def check_gpu(config: None, run: Run, *, limit: int, tiny: bool, only: Sequence[str], apps: Path, card: str) -> None:
    """Run the sections, and write `gpu_check.json` and `gpu_check.md` after each of them."""
    unknown = sorted(set(only) - set(SECONDS))
    if unknown:
        raise ValueError(f"there is no section {unknown[0]!r}; expected some of {', '.join(SECONDS)}")
    run.claim({"limit": limit, "tiny": tiny, "only": list(only), "card": card})
    check = GpuCheck(run, tiny=tiny, apps=apps, card=CARDS[card])
    began = time.monotonic()
    for name in [section for section in SECONDS if not only or section in only]:
        left = limit - (time.monotonic() - began)
        check.section(name, left)
    print(check.page())


@dataclass
class GpuCheck:
    """One check: its rows so far, by section."""

    run: Run
    tiny: bool
    apps: Path
    card: Card
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left: float = 0.0

    @property
    def device(self) -> torch.device:
        """The device that is checked."""
        return self.run.device

    def section(self, name: str, left: float) -> None:
        """One section, unless it does not fit into the seconds that are left; its failure stops no other one."""
        found, start, self.left = self.rows.setdefault(name, []), time.monotonic(), left
        work: Callable[[], None] = getattr(self, f"_{name}")
        if left < 0.5 * SECONDS[name] and not self.tiny:
            found.append({"what": name, "left out": f"{left:.0f} s left, it takes about {SECONDS[name]}"})
        else:
            try:
                work()
            except Exception as error:  # the other sections can still say something
                found.append({"what": name, "failed": f"{type(error).__name__}: {str(error)[:300]}"})
            found.append({"what": f"all of {name}", "seconds": round(time.monotonic() - start, 2)})
        self._free()
        result = {"device": describe_device(self.device), "tiny": self.tiny, "torch": torch.__version__}
        self.run.folder.write_json("gpu_check.json", {**result, "sections": self.rows})
        self.run.folder.write_text("gpu_check.md", self.page())

    def page(self) -> str:
        """All sections as tables in Markdown."""
        head = f"# Check of {describe_device(self.device)}\n\ntorch {torch.__version__}"
        small = "\n\nTiny networks and batches: the times say nothing." if self.tiny else ""
        parts = [f"## {name}\n\n{tables.markdown(rows)}" for name, rows in self.rows.items()]
        return "\n\n".join([head + small, *parts]) + "\n"

    def _say(self, section: str, what: str, **values: Any) -> None:
        self.rows[section].append({"what": what, **values})

    def _machine(self) -> None:
        """Rates of matrix products, and their share of the card's peak."""
        size = 256 if self.tiny else 8192
        a = torch.randn(size, size, device=self.device)
        before = torch.get_float32_matmul_precision()
        for name, x, precision in (("fp32", a, "highest"), ("tf32", a, "high"), ("bf16", a.bfloat16(), "highest")):
            torch.set_float32_matmul_precision(precision)
            try:
                rate = 2 * size**3 / self._seconds(lambda x=x: x @ x)  # type: ignore[misc]
            finally:
                torch.set_float32_matmul_precision(before)
            self._rate("machine", f"matrix product, {name}", rate, name)

    def _agreement(self) -> None:
        """Noise bit for bit; networks, gradients, attacks and purifiers to rounding, in float32 without TF32."""
        index = torch.arange(64)
        for name, draw in (("uniform", noise.uniform), ("normal", noise.normal)):
            here, there = (
                draw((3, 32, 32), seed=1, purpose="check", index=index.to(device)).cpu()
                for device in (torch.device("cpu"), self.device)
            )
            self._say("agreement", f"noise, {name}", agrees=bool(torch.equal(here, there)),
                      difference=float((here - there).abs().max()))  # fmt: skip
        networks = {name: self._network(name) for name in ("classifier", "mae", "edm")}
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            with torch.backends.cudnn.flags(allow_tf32=False):
                expected = self._computed(networks, torch.device("cpu"))
                found = self._computed(networks, self.device)
        finally:
            torch.set_float32_matmul_precision(before)
        for name, value in expected.items():
            difference = float((found[name].cpu() - value).norm() / value.norm().clamp_min(1e-30))
            self._say("agreement", name, agrees=difference <= TOLERANCE, difference=difference)

    def _computed(self, networks: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
        x = noise.uniform((3, 32, 32), seed=0, purpose="images", index=torch.arange(8)).to(device)
        y, index = torch.arange(8, device=device), torch.arange(8, device=device)
        classifier, mae, edm = (networks[name].to(device) for name in ("classifier", "mae", "edm"))
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(classifier(leaf).square().sum(), leaf)
        with torch.no_grad():
            logits, denoised = classifier(x), edm(2 * x - 1, torch.full((8,), 0.3, device=device))
        return {
            "classifier, logits": logits,
            "classifier, gradient in the image": gradient,
            "EDM, denoised": denoised,
            "PGD, 5 steps": PGD(steps=5)(classifier, x, y, seed=0),
            "APGD, 5 steps": APGD(steps=5)(classifier, x, y, seed=0),
            "MAE-Pure, 2 steps": MAEPure(mae, steps=2)(x, seed=0, index=index),
            "DiffPure, 2 steps": DiffPure(edm, times=100, steps=2)(x, seed=0, index=index),
        }

    def _throughput(self) -> None:
        """Main steps: images a second, and the share of the peak that counted operations make of it."""
        variants = {
            "fp32": ComputeSettings(),
            "bf16": ComputeSettings(precision="bf16", channels_last=True),
        }
        if self.device.type == "cuda":
            variants["bf16, compiled"] = ComputeSettings(precision="bf16", channels_last=True, compile=True)
        flop = 0.0
        for name, compute in variants.items():
            self._free()
            trainer, steps = self._trainer(compute), iter(range(1, 10**6))
            if not flop:
                with Flops() as counted:
                    trainer.step(next(steps))
                flop = float(counted.total)
            trainer.step(next(steps))
            seconds = self._seconds(lambda: trainer.step(next(steps)))  # noqa: B023
            rate = {"images a second": trainer.batches.batch_size / seconds, "peak GiB": self._peak()}
            self._rate("throughput", f"TRADES step, WRN-28-10, {name}", flop / seconds, compute.precision, **rate)
        mae, count = self._network("mae").to(self.device), 4 if self.tiny else 512
        x, index = torch.rand(count, 3, 32, 32, device=self.device), torch.arange(count, device=self.device)
        purifier = MAEPure(mae, steps=2)
        with without_onednn(), Flops() as counted:
            purifier(x, seed=0, index=index)
        seconds = self._seconds(lambda: purifier(x, seed=0, index=index))
        self._rate("throughput", f"MAE-Pure, 2 steps, {count} images, float32", counted.total / seconds, "fp32",
                   **{"images a second": count / seconds, "peak GiB": self._peak()})  # fmt: skip

    def _waits(self) -> None:
        """Synchronising calls of the main steps on the GPU, against those that are allowed."""
        trainer, steps = self._trainer(ComputeSettings()), iter(range(1, 10**6))
        classifier, mae = (self._network(name).to(self.device) for name in ("classifier", "mae"))
        x, y = torch.rand(4, 3, 32, 32, device=self.device), torch.zeros(4, dtype=torch.int64, device=self.device)
        index, pgd, purifier = torch.arange(4, device=self.device), PGD(steps=5), MAEPure(mae, steps=2)
        works: dict[str, Callable[[], Any]] = {
            "training step": lambda: trainer.step(next(steps)),
            "attack, 5 steps": lambda: pgd(classifier, x, y, seed=0, index=index),
            "purification, 2 steps": lambda: purifier.purify(x, seed=0, index=index),
        }
        for name, work in works.items():
            work()
            found = self._synchronising(work)
            self._say(
                "waits", name, found=found, allowed=WAITS[name], holds=None if found is None else found <= WAITS[name]
            )

    def _layouts(self) -> None:
        """Networks of convolutions with and without channels_last: which layout is faster there."""
        for row in layouts(self.device, tiny=self.tiny):
            self._say("layouts", **row)
            self._free()

    def _apps(self) -> None:
        """One small run of each app, in processes of their own."""
        work, began = self.run.path / "apps", time.monotonic()
        model = str(work / "classifier/checkpoints/model.safetensors")
        calls = {
            "classifier": ["pretrain.py", "classifier", "--recipe", "smoke"],
            "mae": ["pretrain.py", "mae", "--recipe", "smoke"],
            "edm": ["pretrain.py", "edm", "--recipe", "smoke"],
            "train_dra": ["train_dra.py", "--recipe", "smoke", "--workers", "0"],
            "evaluate": ["evaluate.py", "--model", model, "--defended", "--purifier.steps", "2", "--images", "4",
                         "--probes", "2", "--processes", "1"],
            "finetune_purifier": ["finetune_purifier.py", "--recipe", "smoke", "--classifier", model],
            "generate": ["generate.py", str(work / "edm/checkpoints/model.safetensors"), "--images", "20",
                         "--frechet-images", "0"],
            "compare_purifiers": ["compare_purifiers.py", "--recipe", "smoke", "--processes", "1"],
        }  # fmt: skip
        if self.tiny:
            calls = {"classifier": calls["classifier"]}
        for name, (script, *words) in calls.items():
            start, left = time.monotonic(), self.left - (time.monotonic() - began)
            if left < 10 and not self.tiny:
                self._say("apps", name, status="left out, no time")
                continue
            shared = ["--device", str(self.device), "--out", str(work / name), "--cache", str(work / "cache")]
            try:
                done = subprocess.run([sys.executable, str(self.apps / script), *words, *shared], capture_output=True,
                                      text=True, timeout=None if self.tiny else left, check=False)  # fmt: skip
                status = "done" if done.returncode == 0 else f"{done.returncode}: {done.stderr.strip()[-200:]}"
            except subprocess.TimeoutExpired:
                status = "stopped at the limit"
            self._say("apps", name, status=status, seconds=round(time.monotonic() - start, 1))

    def _network(self, name: str) -> Any:
        """A network of the papers' size, or a tiny one, with weights from a seed."""
        from rp_models.training.seeding import seeded

        small: dict[str, dict[str, Any]] = {
            "classifier": {"depth": 10, "width": 1}, "mae": {"depth": 1, "decoder_depth": 1},
            "edm": {"model_channels": 8, "num_blocks": 1},
        }  # fmt: skip
        of = {"classifier": "wrn-28-10-swish", "mae": "mae-vit-base-p4-32", "edm": "edm-cifar10-uncond-vp"}
        with seeded(0, f"check {name}"):
            return rp_models.build(of[name], **(small[name] if self.tiny else {})).eval().requires_grad_(False)

    def _trainer(self, compute: ComputeSettings) -> ClassifierTrainer:
        """TRADES on images of noise."""
        count, batch = (64, 8) if self.tiny else (4096, 512)
        index = torch.arange(count)
        images = noise.integers(256, (3, 32, 32), seed=0, purpose="pixels", index=index).to(torch.uint8)
        data = ImageSet(images, index % 10, describe("cifar10")).to(self.device)
        sizes = {"depth": 10, "width": 1} if self.tiny else {}
        training = TrainingSettings(
            epochs=4, batch_size=batch, synthetic_fraction=0.0, attack_steps=2 if self.tiny else 10
        )
        network = ClassifierSettings(network="wrn-28-10-swish", **sizes)  # type: ignore[arg-type]
        objective = objective_of(training, num_classes=10)
        trainer = ClassifierTrainer(network, training, data, objective=objective, compute=compute, seed=0)
        trainer.step(0)
        return trainer

    def _rate(self, section: str, what: str, rate: float, precision: str, **more: Any) -> None:
        share = None if self.tiny or self.device.type != "cuda" else rate / getattr(self.card, precision) / 1e12
        self._say(section, what, **{"TFLOP a second": rate / 1e12, f"share of {self.card.name}'s peak": share, **more})

    def _seconds(self, work: Callable[[], Any], repeats: int = 5) -> float:
        """Median seconds, after one call that warms up."""
        spent = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            spent.append(time.perf_counter() - start)
        return sorted(spent[1:])[repeats // 2]

    def _synchronising(self, work: Callable[[], Any]) -> int | None:
        """Calls that waited for the GPU; None where there is none."""
        if self.device.type != "cuda":
            work()
            return None
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                work()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in seen)

    def _peak(self) -> float | None:
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None

    def _free(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
