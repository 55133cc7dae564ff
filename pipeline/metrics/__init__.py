"""What a cover kept of its source, how far its sound moved, and whether it sounds right."""
