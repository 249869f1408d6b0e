"""The recogniser `faster_whisper`: Whisper on CTranslate2, behind a gate that hears whether somebody speaks."""
