"""The logger of the plugin. It tells ids and numbers, never what was said."""

import logging

logger = logging.getLogger("livekit.plugins.custom_stt")
