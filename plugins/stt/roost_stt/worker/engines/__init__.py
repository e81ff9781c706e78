"""Speech engines that ship with Roost. Each has a ``create(config)`` that gives a `roost.speech.SpeechEngine`."""
