"""Weights in and out: files, names, and where a model is found."""
