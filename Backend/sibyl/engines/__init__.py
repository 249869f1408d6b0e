"""From a prompt to text. Blocking, one call a generation; no asyncio, no Redis, no HTTP of ours."""
