from . import noise as noise
from .checkpoint import CheckpointError as CheckpointError
from .checkpoint import load as load
from .checkpoint import load_state as load_state
from .checkpoint import save as save
from .zoo import build as build
from .zoo import names as names
from .zoo import parameter_count as parameter_count
