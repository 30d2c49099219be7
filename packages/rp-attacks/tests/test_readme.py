import re
import subprocess
import sys
from pathlib import Path

import torch
from rp_attacks import Report
from rp_testing.pages import run_python

README = Path(__file__).parents[1] / "README.md"


def run_example() -> tuple[Report, dict]:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        names = run_python(README)
    return names["report"], names


def exact_accuracy(network: torch.nn.Sequential, x: torch.Tensor, y: torch.Tensor, eps: float) -> float:
    """Each pixel of the rounded image is at one end of what eps allows, for each wrong class apart."""
    ends = [((16 * (x + s * eps).clamp(0, 1)).round() / 16).flatten(1)[:, None] for s in (-1, 1)]
    weight, bias = network[1].weight, network[1].bias
    lead = weight - weight[y][:, None]  # n k d
    worst = torch.maximum(lead * ends[0], lead * ends[1]).sum(2) + bias - bias[y][:, None]
    return (worst.scatter(1, y[:, None], -1).max(1).values < 0).float().mean().item()


def test_the_example_runs_and_sees_through_the_defence(capsys) -> None:
    report, names = run_example()
    assert report.robust_accuracy == exact_accuracy(names["network"], names["x"], names["y"], 0.05)
    gradient_attacks = report.threats[0].attacks["pgd20-cw"].right.mean()
    assert report.robust_accuracy < gradient_attacks - 0.3
    assert "ALARM: The gradient is exactly zero for 32 of 32 images" in str(report)
    shown = re.search(r"<!-- report -->\n(.*?)\n<!-- /report -->", README.read_text(), re.DOTALL).group(1)
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert [row.split("|")[2] for row in rows] == [
        line.split("|")[2] for line in str(report).splitlines() if line.startswith("| ")
    ]


def test_every_exported_attack_and_suite_is_in_the_readme() -> None:
    from rp_attacks.suites import SUITES

    text = README.read_text()
    for name in ("PGD", "APGD", "AutoAttack", "FAB", "Square", "LibrarySquare", "RayS", "SPSA", "CarliniWagner"):
        assert f"`{name}`" in text
    assert all(name in text or name.removeprefix("pgd200-eot20") in text for name in SUITES)


def test_importing_the_package_costs_nothing_heavy() -> None:
    code = "import sys, rp_attacks; print([m for m in ('torch', 'numpy', 'pyautoattack') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "[]"
    code = (
        "import sys, rp_attacks\n"
        "names = [n for n in dir(rp_attacks) if not n.startswith('_')]\n"
        "assert all(getattr(rp_attacks, n) is not None for n in names)\n"
        "print(len(names), [m for m in ('pyautoattack', 'torchvision', 'timm', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found.endswith("[]")
    assert int(found.split()[0]) == 25


def test_no_public_name_is_shadowed_by_a_module() -> None:
    import pkgutil

    import rp_attacks

    modules = {module.name for module in pkgutil.iter_modules(rp_attacks.__path__)}
    assert modules & set(dir(rp_attacks)) == set()
