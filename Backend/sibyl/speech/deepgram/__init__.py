"""The recogniser `deepgram`: the vendor's real SDK in threads of its own, on connections that may break."""
