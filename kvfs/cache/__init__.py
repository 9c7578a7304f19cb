"""What is known already and could be asked again. May be emptied at any checkpoint."""
