"""Work items: tracks x settings minus what is done."""
