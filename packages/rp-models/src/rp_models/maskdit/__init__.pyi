from .denoiser import GuidedMaskDiT as GuidedMaskDiT
from .denoiser import MaskDiT as MaskDiT
from .loss import LossTerms as LossTerms
from .loss import log_normal_sigma as log_normal_sigma
from .loss import masked_denoising_loss as masked_denoising_loss
from .loss import masked_denoising_terms as masked_denoising_terms
from .network import MaskDiTNetwork as MaskDiTNetwork
