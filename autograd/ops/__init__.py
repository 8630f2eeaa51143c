"""The ops, by kind. Importing this registers them all."""
