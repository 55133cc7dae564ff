"""Files and audio on any filesystem."""
