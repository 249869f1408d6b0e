"""From many channels to the one that the server hears."""

import numpy as np
from livekit import rtc


def mono(frame: rtc.AudioFrame) -> rtc.AudioFrame:
    """Return a frame of one channel, the mean of all."""
    if frame.num_channels == 1:
        return frame
    samples = np.frombuffer(frame.data, dtype=np.int16).reshape(-1, frame.num_channels)
    mixed = samples.mean(axis=1).round().astype(np.int16)
    return rtc.AudioFrame(mixed.tobytes(), frame.sample_rate, 1, frame.samples_per_channel)
