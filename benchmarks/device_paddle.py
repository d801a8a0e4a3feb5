"""What the device suite asks of Paddle alone."""
from __future__ import annotations

import paddle

from backends.paddle.session import PaddleSession

WAYS = ("eager",)


def take(session: PaddleSession, way: str) -> None:
    """There is one way."""


def graph_words(session: PaddleSession) -> str:
    """Why there is no other."""
    return "none: this backend's step is not captured"


def wait(session: PaddleSession) -> None:
    """Until the device has done all that it was given."""
    if session.config.device != "cpu":
        paddle.device.synchronize()


def facts(session: PaddleSession) -> dict[str, str]:
    """Name and libraries of the device."""
    if not session.config.device.startswith("cuda"):
        return {}
    return {"name": str(paddle.device.cuda.get_device_name()), "CUDA of paddle": str(paddle.version.cuda()),
            "cuDNN": str(paddle.version.cudnn())}
