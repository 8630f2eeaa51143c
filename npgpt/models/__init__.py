"""The models: one configuration and one file for each architecture, made of shared parts."""
