"""What a model costs, where the time goes, and what is wrong with an installation."""
