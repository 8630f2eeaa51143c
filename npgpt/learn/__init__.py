"""Lessons and katas."""
