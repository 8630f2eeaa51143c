"""Scaling laws: a ladder of small models, the laws that their losses follow, and predictions."""
