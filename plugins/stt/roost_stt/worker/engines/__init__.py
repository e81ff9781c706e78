"""Speech engines that ship with Roost. Each module has a ``create(config)`` that gives a `roost.speech.SpeechEngine`."""
