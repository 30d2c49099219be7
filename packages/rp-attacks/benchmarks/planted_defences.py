"""The table of planted defences in the package's README.

uv run packages/rp-attacks/benchmarks/planted_defences.py
"""

from rp_testing.planted import PLANTED

HEAD = ["| planted defence | one PGD | evaluation | truth | named by the finding |", "|---|---|---|---|---|"]


def main() -> None:
    """Evaluate all of them and print the table."""
    print("\n".join(HEAD))
    for name, make in PLANTED.items():
        planted = make()
        numbers = (planted.left_by_pgd(), planted.report().robust_accuracy, planted.truth)
        cells = " | ".join(f"{100 * number:.1f}%" for number in numbers)
        print(f"| {name} | {cells} | {planted.named} |", flush=True)


if __name__ == "__main__":
    main()
