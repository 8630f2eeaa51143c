"""Evaluation: losses and metrics of a trained model."""
