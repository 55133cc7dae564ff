"""The Gradio page of the service."""
