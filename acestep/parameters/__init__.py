"""Parameters: values and suggestions."""
