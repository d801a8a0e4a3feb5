"""The array types that cross every border."""
from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
F64 = npt.NDArray[np.float64]
