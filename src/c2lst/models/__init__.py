"""What a user holds, saves and loads."""

from ._central import CentralModel
from ._encoders import Encoder, get_encoder, list_encoders, register_encoder
from ._local import LocalModel
from ._predictor import Predictor
from ._registry import central_model, list_central, register_central

__all__ = [
    "CentralModel",
    "Encoder",
    "LocalModel",
    "Predictor",
    "central_model",
    "get_encoder",
    "list_central",
    "list_encoders",
    "register_central",
    "register_encoder",
]
