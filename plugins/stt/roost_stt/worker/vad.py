"""Silero voice detection, chunk by chunk, with the state of each speaker kept apart."""

from __future__ import annotations

from pathlib import Path

import faster_whisper
import numpy as np
import numpy.typing as npt
import onnxruntime

CHUNK_SAMPLES = 512
CONTEXT_SAMPLES = 64

Samples = npt.NDArray[np.float32]


class SileroModel:
    """The network (v6, 16 kHz), shared by all speakers; one thread."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        path = Path(faster_whisper.__file__).parent / "assets" / "silero_vad_v6.onnx"
        self._session = onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"], sess_options=options
        )

    def run(self, chunk: Samples, h: Samples, c: Samples) -> tuple[float, Samples, Samples]:
        output, h, c = self._session.run(None, {"input": chunk, "h": h, "c": c})
        return float(output.reshape(-1)[-1]), h, c


class SileroStream:
    """One speaker's stream of 512-sample chunks (32 ms)."""

    def __init__(self, model: SileroModel) -> None:
        self._model = model
        self.reset()

    def reset(self) -> None:
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(CONTEXT_SAMPLES, np.float32)

    def probability(self, chunk: npt.NDArray[np.int16]) -> float:
        """That this chunk holds speech, 0 to 1."""
        samples = chunk.astype(np.float32) / 32768.0
        joined = np.concatenate([self._context, samples])[None, :]
        self._context = samples[-CONTEXT_SAMPLES:]
        result, self._h, self._c = self._model.run(joined, self._h, self._c)
        return result
