"""Generation: requests, conditions, chains of covers, rendering."""
