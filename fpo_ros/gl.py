"""Which OpenGL backend MuJoCo renders with when there is no display."""

from __future__ import annotations

import ctypes.util
import os

#: Backends of MuJoCo that need no display, the fastest first, each with the library it loads.
HEADLESS = {'egl': 'EGL', 'osmesa': 'OSMesa'}

#: What provides those libraries on Debian and Ubuntu.
INSTALL = 'apt-get install libegl1 libopengl0 libgl1-mesa-dri'


def select_backend() -> str | None:
    """
    Set MUJOCO_GL for this process unless it is set already; call it before mujoco is imported.

    The choice goes by which library is installed; ``fpo-ros doctor`` tries whether it renders.

    :returns: the backend, or None where no library for rendering without display is installed.
    """
    if not os.environ.get('MUJOCO_GL'):
        for backend, library in HEADLESS.items():
            if ctypes.util.find_library(library):
                os.environ['MUJOCO_GL'] = backend
                break
    return os.environ.get('MUJOCO_GL') or None
