"""Processes that compute together: what they do for each other, on one machine or on several."""
