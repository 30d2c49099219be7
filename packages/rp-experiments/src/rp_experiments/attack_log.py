"""The steps of attacks in a run's `metrics.jsonl`, from where TensorBoard draws them."""

from collections import Counter

from rp_attacks.watch import Part, Step
from rp_models.training.run import RunFolder


class AttackLog:
    """Logs what each step of an attack found: means over its images.

    One curve for each attack; its batches and blocks follow each other, `iterate` says where each begins.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.lines: Counter[str] = Counter(record["stage"] for record in folder.metrics())

    def __call__(self, step: Step | Part) -> None:
        """Take in one step."""
        if isinstance(step, Part) or len(step.image) == 0:
            return
        stage = f"{step.attack}, on its source" if step.on_source else step.attack
        values = {"loss": step.loss, "wrong": step.wrong, "distance": step.distance}
        values |= {} if step.gradient is None else {"gradient": step.gradient}
        means = {name: float(value.float().mean()) for name, value in values.items()}
        self.folder.log(stage, self.lines[stage], {"iterate": step.number, "images": len(step.image), **means})
        self.lines[stage] += 1
