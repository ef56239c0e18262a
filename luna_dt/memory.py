"""Which device a model runs on, in which precision, and how long it stays: the one place that decides."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import threads
from .errors import MissingExtra, OutOfMemory, SettingsError
from .records import Float32s

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

#: Called with a model (a torch module) before each use, brings it where it is to run; a host such as ComfyUI,
#: which gives its own, moves it out again when it wants the memory.
Residency = Callable[[Any], object]

T = TypeVar("T")
IDLE = 600.0  # seconds after which an unused model leaves, so that a forgotten program does not hold a GPU


def place(device: str) -> tuple[torch.device, torch.dtype]:
    """The device a setting names and the precision used there: half on a GPU, single elsewhere."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "clip") from error
    if device == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise SettingsError(f"device '{device}' is none that torch knows; try auto, cuda:0, mps or cpu") from error
    if str(chosen) == "cuda" and torch.cuda.is_available():
        chosen = torch.device("cuda", torch.cuda.current_device())  # or one GPU would have two names
    if chosen.type == "cuda" and not (chosen.index or 0) < torch.cuda.device_count():
        raise SettingsError(f"device '{device}' is not here (CUDA devices: {torch.cuda.device_count()}); try auto")
    return chosen, torch.float32 if chosen.type == "cpu" else torch.float16


class Memory:
    """The models that are loaded, encoders and detectors alike; all of them leave after ``idle`` seconds.

    With a ``residency`` the host owns the memory and nothing leaves by itself.
    """

    def __init__(self, residency: Residency | None = None, idle: float = IDLE) -> None:
        self._residency, self._idle = residency, idle
        self._kept: dict[Hashable, Any] = {}
        self._alone: Hashable = None
        self._lock, self._emptied = threading.RLock(), threading.Event()
        self._used, self._ending = 0.0, False
        self._watch: threading.Thread | None = None

    def get(self, key: Hashable, load: Callable[[], T], alone: bool = False) -> T:
        """The model of that key, loaded if it is not here; of those that are to be ``alone`` one stays at a time."""
        with self._lock:
            if alone and self._alone not in (None, key):
                self._let_go([self._alone])
            if key not in self._kept:
                try:
                    self._kept[key] = load()
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    if not self.release():
                        raise OutOfMemory(
                            f"there is no memory to load a model ({error}); close other programs"
                        ) from error
                    self._kept[key] = load()
            if alone:
                self._alone = key
            self.touch()
            if self._watch is None and not self._residency:
                self._watch = threads.start("memory", self._leave_when_idle, self._end)
            found: T = self._kept[key]
            return found

    def ready(self, module: Any, device: torch.device) -> torch.device:
        """Has a module brought where it is to run, and gives that device."""
        with self._lock:
            if self._residency:
                self._residency(module)
            else:
                module.to(device)
            at: torch.device = next(module.parameters()).device
            return at

    def release(self, but: object = None) -> bool:
        """Lets every model go but one, if named; the next use loads them again.  Says whether there were any."""
        with self._lock:
            gone = [key for key, model in self._kept.items() if model is not but]
            self._let_go(gone)
            self._emptied.set()
        return bool(gone)

    def _let_go(self, keys: Sequence[Hashable]) -> None:
        for key in keys:
            self._kept.pop(key, None)
        if keys:
            gc.collect()  # a host's wrapper and its module name each other
            empty_cache()

    def _end(self) -> None:
        self._ending = True
        self._emptied.set()

    def _leave_when_idle(self) -> None:
        while True:
            self._emptied.wait(max(0.01, self._used + self._idle - time.monotonic()))
            if self._ending:
                return
            with self._lock:
                self._emptied.clear()
                if self._kept and time.monotonic() - self._used >= self._idle:
                    log.info("models leave the memory, unused for %.0f s", self._idle)
                    self.release()
                if not self._kept:
                    self._watch = None
                    return

    def in_batches(
        self, owner: Any, items: Sequence[Any], dim: int, run: Callable[[Sequence[Any]], torch.Tensor]
    ) -> Float32s:
        """Runs ``run`` over ``items`` in batches of ``owner.batch`` and gives unit vectors, float32[n, dim].

        Where memory runs out, other models leave first, then the batch is halved, for good.
        Raises OutOfMemory when one item alone does not fit.
        """
        import torch

        self.touch()
        result = np.empty((len(items), dim), np.float32)
        at = 0
        while at < len(items):
            part = items[at : at + owner.batch]
            try:
                with torch.inference_mode():
                    vectors = torch.nn.functional.normalize(run(part).float(), dim=-1).cpu().numpy()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.release(but=owner):
                    continue
                if len(part) == 1:
                    raise OutOfMemory(
                        "the encoder finds no memory for even one item; close what else uses the device, or set "
                        "LUNA_DT_DEVICE=cpu"
                    ) from error
                owner.batch = max(1, len(part) // 2)
                empty_cache()
                log.warning("out of memory: going on with batches of %d", owner.batch)
                continue
            result[at : at + len(part)] = vectors
            at += len(part)
        self.touch()
        return result

    def touch(self) -> None:
        """Says that something that is loaded is in use, so that it does not leave as idle."""
        self._used = time.monotonic()


def is_out_of_memory(error: Exception) -> bool:
    """Each device says it in its own words; only CUDA has a class for it."""
    if isinstance(error, MemoryError):
        return True
    told = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in told for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def empty_cache() -> None:
    """Gives what torch holds in reserve on a GPU back to it."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
