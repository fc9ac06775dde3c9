"""What an operator does to a whole installation: examine it, back it up, restore it."""
