"""Command-line stages: each parses paths, loads its config and makes one library call."""
