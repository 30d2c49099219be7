"""Settings of robust fine-tuning."""

from dataclasses import dataclass

from rp_models.settings import require


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneSettings:
    """Robust fine-tuning of a purifier's model (MAE-Pure, appendix F.1); what the paper leaves open is marked."""

    steps: int = 39_100  # 100 epochs of 50,000 images
    batch_size: int = 128  # open
    lr: float = 1e-5  # of AdamW, open
    weight_decay: float = 0.0  # open
    class_weight: float = 1.0  # of the classifier's cross-entropy on purified adversarial images
    mu: float = 1.0  # of the model's own loss on clean images, open
    noise_std: float = 0.25  # of the noise on the images that are attacked, in [0, 1] pixel units, open
    mask_rate: float = 0.75  # of the model's own loss; 0.5 for MaskDiT

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"finetune.steps must be at least 1, got {self.steps}")
        require(self.batch_size >= 1, f"finetune.batch_size must be at least 1, got {self.batch_size}")
        require(self.lr > 0, f"finetune.lr must be positive, got {self.lr}")
        require(self.weight_decay >= 0, f"finetune.weight_decay must not be negative, got {self.weight_decay}")
        require(self.class_weight > 0, f"finetune.class_weight must be positive, got {self.class_weight}")
        require(self.mu >= 0, f"finetune.mu must not be negative, got {self.mu}")
        require(self.noise_std >= 0, f"finetune.noise_std must not be negative, got {self.noise_std}")
        require(0 < self.mask_rate < 1, f"finetune.mask_rate must be in (0, 1), got {self.mask_rate}")
