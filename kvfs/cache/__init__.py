"""Knowledge of the store that could be asked again. All of it may be dropped at any checkpoint."""
