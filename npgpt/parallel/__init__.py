"""Processes that compute together: how they exchange values, on one machine or on several."""
